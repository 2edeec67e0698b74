"""Nemotron-H and Nemotron 3 (arXiv:2504.03624, arXiv:2512.20848): layers of one branch each, Mamba-2, attention without
positions, an MLP or a mixture, as a pattern of letters has it."""

from jaxlm.convert import mamba2
from jaxlm.convert.fields import Fields
from jaxlm.convert.mixtures import sigmoid
from jaxlm.convert.names import beside, flat, linear, same
from jaxlm.convert.usual import activation, attention, layers, lm
from jaxlm.models import LMConfig
from jaxlm.nn import BranchConfig, BranchesConfig, Mamba2Config, MLPConfig, RMSNormConfig

MODEL_TYPES = {"nemotron_h": "NemotronHForCausalLM"}
DEFAULTS = {"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 4096}
AT = "model.layers.{}.mixer"
NAMES = {
    "model.embeddings.weight": same("embed.table"),
    "model.layers.{}.norm.weight": (same("mixer_norm.scale"), same("ffn_norm.scale")),
    **beside("mixer.dt", mamba2.mixer_names(AT)),
    f"{AT}.o_proj.weight": linear("mixer.o"),
    f"{AT}.o_proj.bias": same("mixer.o_bias"),
    f"{AT}.q_proj.weight": linear("mixer.q"),
    f"{AT}.q_proj.bias": flat("mixer.q_bias"),
    f"{AT}.k_proj.weight": linear("mixer.k"),
    f"{AT}.k_proj.bias": flat("mixer.k_bias"),
    f"{AT}.v_proj.weight": linear("mixer.v"),
    f"{AT}.v_proj.bias": flat("mixer.v_bias"),
    f"{AT}.gate.weight": linear("ffn.router"),
    f"{AT}.gate.e_score_correction_bias": same("ffn.balance"),
    f"{AT}.fc1_latent_proj.weight": linear("ffn.latent_in"),
    f"{AT}.fc2_latent_proj.weight": linear("ffn.latent_out"),
    f"{AT}.experts.{{e}}.up_proj.weight": linear("ffn.up"),
    f"{AT}.experts.{{e}}.down_proj.weight": linear("ffn.down"),
    f"{AT}.shared_experts.up_proj.weight": linear("ffn.shared.up"),
    f"{AT}.shared_experts.down_proj.weight": linear("ffn.shared.down"),
    f"{AT}.up_proj.weight": linear("ffn.up"),
    f"{AT}.up_proj.bias": same("ffn.up_bias"),
    f"{AT}.down_proj.weight": linear("ffn.down"),
    f"{AT}.down_proj.bias": same("ffn.down_bias"),
    "model.norm_f.weight": same("norm.scale"),
    "lm_head.weight": linear("head"),
}
SPELLINGS = ({"model.": "backbone."},)
IGNORED = ("mtp.*", "*.mtp.*")
LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
WORDS = {"linear_attention": "mamba", "full_attention": "attention", **{word: word for word in LETTERS.values()}}


def config(c: Fields) -> LMConfig:
    norm = RMSNormConfig(c.float("layer_norm_epsilon", default=1e-5))
    kinds = pattern(c)
    parts = {"mamba": _mamba, "attention": _attention, "mlp": _mlp, "moe": _experts}
    made = {kind: parts[kind](c) for kind in dict.fromkeys(kinds)}
    name = {"mamba": "mixer", "attention": "mixer", "mlp": "ffn", "moe": "ffn"}
    layer = {kind: BranchesConfig((BranchConfig(name[kind], of, norm),)) for kind, of in made.items()}
    return lm(c, [layer[kind] for kind in kinds], norm=norm)


def pattern(c: Fields) -> list[str]:
    """The kind of each layer: a word each, or a letter."""
    letters = c.str("hybrid_override_pattern", default=None)
    words = c.list("layers_block_type", "layer_types", default=None)
    if words is None:
        letters = "ME*-" if letters is None else letters
        if wrong := sorted({*letters} - {*LETTERS}):
            raise c.error("hybrid_override_pattern", f"has {wrong[0]!r}: known are {', '.join(LETTERS)}")
        key, kinds = "hybrid_override_pattern", [LETTERS[letter] for letter in letters]
    else:
        if wrong := [word for word in words if word not in WORDS]:
            raise c.error("layers_block_type", f"has {str(wrong[0])[:60]!r}: known are {', '.join(WORDS)}")
        key, kinds = "layers_block_type", [WORDS[word] for word in words]
    if c.get("num_hidden_layers") is not None and layers(c) != len(kinds):
        raise c.error(key, f"has {len(kinds)} layers, but num_hidden_layers is {layers(c)}")
    return kinds


def _mamba(c: Fields) -> Mamba2Config:
    if c.bool("use_bias", default=False):
        raise c.error("use_bias", "is true: no published model is, and it is not supported")
    c.one_of("mamba_hidden_act", among={"silu": "silu"}, default="silu")
    return Mamba2Config(
        c.size("mamba_num_heads", default=128),
        c.size("mamba_head_dim", default=64),
        G=c.size("mamba_n_groups", "n_groups", default=8),
        Z=c.size("ssm_state_size", default=128),
        W=c.size("mamba_d_conv", "conv_kernel", default=4),
        conv_bias=c.bool("mamba_conv_bias", "use_conv_bias", default=True),
        eps=c.positive("layer_norm_epsilon", default=1e-5),
        least_step=c.float("mamba_dt_min", "time_step_min", default=0.001),
    )


def _attention(c: Fields):
    bias = c.bool("attention_bias", default=False)
    return attention(c, rope=None, bias=bias, bias_out=bias)


def _mlp(c: Fields, key: str = "intermediate_size") -> MLPConfig:
    return MLPConfig(
        c.size(key), activation(c, "mlp_hidden_act", "relu2"), gated=False, bias=c.bool("mlp_bias", default=False)
    )


def _experts(c: Fields):
    many = c.size("n_shared_experts", default=1)
    return sigmoid(
        c,
        c.size("n_routed_experts"),
        c.size("moe_intermediate_size"),
        2,
        many,
        1.0,
        activation=activation(c, "mlp_hidden_act", "relu2"),
        gated=False,
        shared=_mlp(c, "moe_shared_expert_intermediate_size"),
        latent=c.size("moe_latent_size", default=None),
    )
