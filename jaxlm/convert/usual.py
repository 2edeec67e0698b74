"""What most families have in common: the keys of config.json and the names of tensors that Llama's files began."""

from collections.abc import Sequence
from typing import Any

from jaxlm.convert.fields import Fields
from jaxlm.convert.names import flat, linear, same
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, LayerConfig, LayerNormConfig, MLPConfig, RMSNormConfig, group_layers
from jaxlm.ops import activations

TOP = {
    "model.embed_tokens.weight": same("embed.table"),
    "model.norm.weight": same("norm.scale"),
    "lm_head.weight": linear("head"),
}
ATTENTION = {
    "model.layers.{}.self_attn.q_proj.weight": linear("mixer.q"),
    "model.layers.{}.self_attn.q_proj.bias": flat("mixer.q_bias"),
    "model.layers.{}.self_attn.k_proj.weight": linear("mixer.k"),
    "model.layers.{}.self_attn.k_proj.bias": flat("mixer.k_bias"),
    "model.layers.{}.self_attn.v_proj.weight": linear("mixer.v"),
    "model.layers.{}.self_attn.v_proj.bias": flat("mixer.v_bias"),
    "model.layers.{}.self_attn.o_proj.weight": linear("mixer.o"),
    "model.layers.{}.self_attn.o_proj.bias": same("mixer.o_bias"),
    "model.layers.{}.self_attn.q_norm.weight": same("mixer.q_norm.scale"),
    "model.layers.{}.self_attn.k_norm.weight": same("mixer.k_norm.scale"),
}
MLP = {
    "model.layers.{}.mlp.gate_proj.weight": linear("ffn.gate"),
    "model.layers.{}.mlp.gate_proj.bias": same("ffn.gate_bias"),
    "model.layers.{}.mlp.up_proj.weight": linear("ffn.up"),
    "model.layers.{}.mlp.up_proj.bias": same("ffn.up_bias"),
    "model.layers.{}.mlp.down_proj.weight": linear("ffn.down"),
    "model.layers.{}.mlp.down_proj.bias": same("ffn.down_bias"),
}
FUSED_MLP = {
    "model.layers.{}.mlp.gate_up_proj.weight": linear("ffn.gate", "ffn.up"),
    "model.layers.{}.mlp.down_proj.weight": linear("ffn.down"),
}
NORMS = {
    "model.layers.{}.input_layernorm.weight": same("norm1.scale"),
    "model.layers.{}.post_attention_layernorm.weight": same("norm2.scale"),
}
NAMES = TOP | ATTENTION | MLP | NORMS
IGNORED = ("*.rotary_emb.inv_freq",)
WRAPPED = ({"": "language_model."}, {"model.": "model.language_model."})  # spellings of models that also see
EYES = ("*vision_tower.*", "*vision_model.*", "*multi_modal_projector.*")  # their other tensors

ACTIVATIONS = {
    **{name: name for name in activations.ACTIVATIONS},
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"), "gelu_tanh"),
    "gelu_python": "gelu",
    "swish": "silu",
}

MOST_LAYERS = 1000  # each is looked at on its own
Blocks = Sequence[LayerConfig]


def layers(c: Fields, *keys: str) -> int:
    N = c.size(*keys or ("num_hidden_layers",))
    if N > MOST_LAYERS:
        raise c.error((keys or ("num_hidden_layers",))[0], f"is {N}: no more than {MOST_LAYERS} layers are read")
    return N


def activation(c: Fields, key: str, default: str) -> str:
    return c.one_of(key, among=ACTIVATIONS, default=default)


def norm(c: Fields, eps: float = 1e-6, **changes: Any) -> RMSNormConfig:
    return RMSNormConfig(c.float("rms_norm_eps", default=eps), **changes)


def attention(c: Fields, **changes: Any) -> AttentionConfig:
    """Grouped queries; `head_dim` is hidden_size / num_attention_heads unless given."""
    D, H = c.size("hidden_size"), c.size("num_attention_heads")
    usual = {
        "K": c.size("head_dim", default=D // H),
        "G": c.size("num_key_value_heads", default=H),
        "dropout": c.float("attention_dropout", default=0.0),
    }
    if "K" not in changes and c.get("head_dim") is None and D % H:
        raise c.error("num_attention_heads", f"{H} does not divide hidden_size {D}, and there is no head_dim")
    return AttentionConfig(H=H, **usual | changes)


def layer_norm(c: Fields, *keys: str, eps: float = 1e-5, **changes: Any) -> LayerNormConfig:
    return LayerNormConfig(c.float(*keys or ("layer_norm_eps",), default=eps), **changes)


def with_bias(names: dict[str, Any], *where: str) -> dict[str, Any]:
    """These lines, each norm's scale at `where` with its bias beside it."""
    biases = {f"{name.removesuffix('.weight')}.bias": same(f"{path}.bias") for name, path in _scales(names, where)}
    return names | biases


def _scales(names: dict[str, Any], where: Sequence[str]) -> list[tuple[str, str]]:
    paths = {name: rule.paths[0] for name, rule in names.items()}
    return [(name, path.removesuffix(".scale")) for name, path in paths.items() if path.removesuffix(".scale") in where]


def mlp(c: Fields, *keys: str, **changes: Any) -> MLPConfig:
    """A gated feed-forward of the width at `keys`."""
    if "activation" not in changes:
        changes["activation"] = activation(c, "hidden_act", "silu")
    return MLPConfig(F=c.size(*keys or ("intermediate_size",)), **changes)


def layer_types(c: Fields, sliding: Sequence[bool], kinds: Sequence[str] = ("sliding_attention",)) -> list[bool]:
    """For each layer whether it is of one of the local `kinds`, from `layer_types`, or else as `sliding` has it."""
    N = layers(c)
    types = c.list("layer_types", default=None)
    if types is None:
        return list(sliding)
    for kind in types:
        if kind not in (*kinds, "full_attention"):
            raise c.error("layer_types", f"has {kind!r}: known are {', '.join((*kinds, 'full_attention'))}")
    if len(types) != N:
        raise c.error("layer_types", f"has {len(types)} entries, but num_hidden_layers is {N}")
    return [kind in kinds for kind in types]


def flags(c: Fields, key: str, default: Sequence[bool]) -> list[bool]:
    """A list with a 0 or 1 for each layer; it may be longer than there are layers."""
    found = c.list(key, default=None)
    if not found:
        return list(default)
    if len(found) < len(default) or not all(x in (0, 1) for x in found):
        raise c.error(key, f"must have a 0 or 1 for each of {len(default)} layers, not {str(found)[:60]}")
    return [bool(x) for x in found[: len(default)]]


def lm(c: Fields, blocks: Blocks, **changes: Any) -> LMConfig:
    """The model of these layers, with an RMS norm before the head and an untied head unless said otherwise."""
    usual = {"norm": norm(c), "tied": c.bool("tie_word_embeddings", default=False)}
    return LMConfig(V=c.size("vocab_size"), D=c.size("hidden_size"), layers=group_layers(blocks), **usual | changes)
