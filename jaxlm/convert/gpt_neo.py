"""GPT-Neo (Black et al. 2021): GPT-2 with local layers by turns with global ones, and scores that are not divided."""

from jaxlm.convert.fields import Fields
from jaxlm.convert.names import flat, linear, same
from jaxlm.convert.usual import activation, layers
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayerNormConfig, LearnedConfig, MLPConfig, group_layers

MODEL_TYPES = {"gpt_neo": "GPTNeoForCausalLM"}
ATTENTION = "transformer.h.{}.attn.attention"
NAMES = {
    "transformer.wte.weight": same("embed.table"),
    "transformer.wpe.weight": same("positions.table"),
    "transformer.h.{}.ln_1.weight": same("norm1.scale"),
    "transformer.h.{}.ln_1.bias": same("norm1.bias"),
    f"{ATTENTION}.q_proj.weight": linear("mixer.q"),
    f"{ATTENTION}.k_proj.weight": linear("mixer.k"),
    f"{ATTENTION}.v_proj.weight": linear("mixer.v"),
    f"{ATTENTION}.out_proj.weight": linear("mixer.o"),
    f"{ATTENTION}.out_proj.bias": flat("mixer.o_bias"),
    "transformer.h.{}.ln_2.weight": same("norm2.scale"),
    "transformer.h.{}.ln_2.bias": same("norm2.bias"),
    "transformer.h.{}.mlp.c_fc.weight": linear("ffn.up"),
    "transformer.h.{}.mlp.c_fc.bias": same("ffn.up_bias"),
    "transformer.h.{}.mlp.c_proj.weight": linear("ffn.down"),
    "transformer.h.{}.mlp.c_proj.bias": same("ffn.down_bias"),
    "transformer.ln_f.weight": same("norm.scale"),
    "transformer.ln_f.bias": same("norm.bias"),
    "lm_head.weight": linear("head"),
}
IGNORED = ("*.attention.bias", "*.attention.masked_bias")


def config(c: Fields) -> LMConfig:
    D, H, N = c.size("hidden_size"), c.size("num_heads", "num_attention_heads"), layers(c, "num_layers")
    if D % H:
        raise c.error("num_heads", f"{H} does not divide hidden_size {D}")
    norm, window = LayerNormConfig(c.float("layer_norm_epsilon", default=1e-5)), c.size("window_size", default=256)
    ffn = MLPConfig(
        c.size("intermediate_size", default=4 * D),
        activation(c, "activation_function", "gelu_new"),
        gated=False,
        bias=True,
    )

    def block(local: bool) -> BlockConfig:
        mixer = AttentionConfig(
            H,
            D // H,
            rope=None,
            window=window if local else None,
            scale=1.0,
            bias_out=True,
            dropout=c.float("attention_dropout", default=0.0),
        )
        return BlockConfig(mixer, ffn, norm, dropout=c.float("resid_dropout", default=0.0))

    return LMConfig(
        V=c.size("vocab_size"),
        D=D,
        layers=group_layers([block(one) for one in _local(c, N)]),
        positions=LearnedConfig(c.size("max_position_embeddings", default=2048)),
        norm=norm,
        tied=c.bool("tie_word_embeddings", default=True),
        dropout=c.float("embed_dropout", default=0.0),
    )


def _local(c: Fields, N: int) -> list[bool]:
    """Files say pairs of a pattern and how often it comes: [[["global", "local"], 12]]."""
    said = c.list("attention_types", default=[[["global", "local"], N // 2]])
    try:
        kinds = c.list("attention_layers", default=[kind for pattern, n in said for _ in range(n) for kind in pattern])
        known = {*kinds} <= {"global", "local"}
    except (TypeError, ValueError):
        raise c.error("attention_types", f"must be pairs of a list and a number, not {str(said)[:60]}") from None
    if not known or len(kinds) != N:
        raise c.error("attention_types", f"must name {N} layers global or local, not {str(kinds)[:60]}")
    return [kind == "local" for kind in kinds]
