"""LFM2 (Liquid AI 2025, arXiv:2511.23404), dense and mixed: gated short convolutions, and attention in some layers."""

from jaxlm.convert import rope
from jaxlm.convert.depthwise import depthwise
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import beside, flat, linear, same
from jaxlm.convert.usual import IGNORED, TOP, attention, layers, lm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, MLPConfig, MoEConfig, QKNormConfig, RMSNormConfig, ShortConvConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"lfm2": "Lfm2ForCausalLM", "lfm2_moe": "Lfm2MoeForCausalLM"}
DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 128_000}
AT, FFN = "model.layers.{}", "model.layers.{}.feed_forward"
CONV = {
    f"{AT}.conv.in_proj.weight": linear("mixer.b", "mixer.c", "mixer.x"),
    f"{AT}.conv.conv.weight": depthwise("mixer.conv"),
    f"{AT}.conv.out_proj.weight": linear("mixer.o"),
}
NAMES = (
    {name: rule for name, rule in TOP.items() if name != "model.norm.weight"}
    | beside("mixer.conv", CONV)
    | {
        "model.embedding_norm.weight": same("norm.scale"),
        f"{AT}.operator_norm.weight": same("norm1.scale"),
        f"{AT}.ffn_norm.weight": same("norm2.scale"),
        **{f"{AT}.self_attn.{x}_proj.weight": linear(f"mixer.{x}") for x in "qkv"},
        **{f"{AT}.self_attn.{x}_layernorm.weight": same(f"mixer.{x}_norm.scale") for x in "qk"},
        f"{AT}.self_attn.out_proj.weight": linear("mixer.o"),
        f"{FFN}.gate.weight": linear("ffn.router"),
        f"{FFN}.expert_bias": flat("ffn.balance"),
        f"{FFN}.experts.{{e}}.w1.weight": linear("ffn.gate"),
        f"{FFN}.experts.{{e}}.w3.weight": linear("ffn.up"),
        f"{FFN}.experts.{{e}}.w2.weight": linear("ffn.down"),
        f"{FFN}.w1.weight": linear("ffn.gate"),
        f"{FFN}.w3.weight": linear("ffn.up"),
        f"{FFN}.w2.weight": linear("ffn.down"),
    }
)


def config(c: Fields) -> LMConfig:
    N, mixed, D = layers(c), c.str("model_type") == "lfm2_moe", c.size("hidden_size")
    norm = RMSNormConfig(c.float("norm_eps", default=1e-5))
    if c.bool("conv_bias", default=False):
        raise c.error("conv_bias", "is true: no published model is, and it is not supported")
    whole = attention(c, rope=rope.read(c, base=1e6), qk_norm=QKNormConfig(norm), dropout=0.0)
    conv = ShortConvConfig(D, c.size("conv_L_cache", default=3))
    dense = MLPConfig(_width(c, mixed))
    ffns = [dense] * N
    if mixed:
        experts = MoEConfig(
            E=c.size("num_experts", default=32),
            top_k=c.size("num_experts_per_tok", default=4),
            F=c.size("moe_intermediate_size", default=1792),
            score="sigmoid",
            norm_topk_prob=c.bool("norm_topk_prob", default=True),
            scale=c.float("routed_scaling_factor", default=1.0),
            score_correction_bias=c.bool("use_expert_bias", default=True),
        )
        first = c.int("num_dense_layers", default=2)
        ffns = [dense if i < first else experts for i in range(N)]
    tied = c.bool("tie_embedding", "tie_word_embeddings", default=True)
    blocks = [BlockConfig(conv if one else whole, ffn, norm) for one, ffn in zip(_convs(c, N), ffns)]
    return lm(c, blocks, norm=norm, tied=tied)


def _convs(c: Fields, N: int) -> list[bool]:
    kinds = c.list("layer_types", default=None)
    if kinds is None:
        whole = c.list("full_attn_idxs", default=list(range(N)))
        return [i not in whole for i in range(N)]
    if len(kinds) != N or not {*kinds} <= {"conv", "full_attention"}:
        raise c.error("layer_types", f"must say conv or full_attention for each of {N} layers, not {str(kinds)[:60]}")
    return [kind == "conv" for kind in kinds]


def _width(c: Fields, mixed: bool) -> int:
    F = c.size("block_ff_dim", "intermediate_size")
    if mixed or not c.bool("block_auto_adjust_ff_dim", default=True):
        return F
    F, many = int(2 * F / 3), c.size("block_multiple_of", default=256)
    F = int(c.positive("block_ffn_dim_multiplier", default=1.0) * F)
    return many * -(-F // many)
