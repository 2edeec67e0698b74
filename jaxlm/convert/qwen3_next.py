"""Qwen3-Next (Qwen 2025): three layers of gated DeltaNet to one of gated attention, a quarter of each head rotated,
norms about one, and a mixture beside a shared expert with a gate."""

from collections.abc import Sequence

from jaxlm.convert import qwen2_moe, qwen3_moe, rope, usual
from jaxlm.convert.depthwise import depthwise
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import beside, flat, linear, same
from jaxlm.convert.usual import attention, layer_types, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, DeltaNetConfig, MLPConfig, QKNormConfig

MODEL_TYPES = {"qwen3_next": "Qwen3NextForCausalLM"}
DEFAULTS = {"num_key_value_heads": 2, "head_dim": 256, "max_position_embeddings": 32_768}
IGNORED = (*usual.IGNORED, "*mtp.*")
DELTA = "model.layers.{}.linear_attn"
OWN = {
    f"{DELTA}.in_proj_qkvz.weight": linear("mixer.q", "mixer.k", "mixer.v", "mixer.gate", by="heads"),
    f"{DELTA}.in_proj_ba.weight": linear("mixer.rate", "mixer.decay", by="heads"),
    f"{DELTA}.conv1d.weight": depthwise("mixer.conv_q", "mixer.conv_k", "mixer.conv_v"),
    f"{DELTA}.dt_bias": flat("mixer.decay_bias"),
    f"{DELTA}.A_log": same("mixer.a_log"),
    f"{DELTA}.norm.weight": same("mixer.norm"),
    f"{DELTA}.out_proj.weight": linear("mixer.o"),
}
GATED = {
    "model.layers.{}.self_attn.q_proj.weight": linear("mixer.q", "mixer.gate", by="heads"),
    "model.layers.{}.self_attn.q_proj.bias": flat("mixer.q_bias", "mixer.gate_bias", by="heads"),
}
NAMES = beside("mixer.a_log", OWN) | qwen2_moe.NAMES | GATED


def config(c: Fields) -> LMConfig:
    wide = mlp(c, "shared_expert_intermediate_size")
    experts = qwen3_moe.experts(c, 512, 10, 512, True, shared=wide, shared_gate=True)
    return of(c, [experts if sparse else mlp(c) for sparse in qwen3_moe.sparse(c)])


def of(c: Fields, ffns: Sequence[MLPConfig]) -> LMConfig:
    """With these feed-forwards."""
    around, bias = norm(c, zero_centered=True), c.bool("attention_bias", default=False)
    if not c.bool("attn_output_gate", default=True):
        raise c.error("attn_output_gate", "is false: attention without a gate is not supported here")
    whole = attention(
        c,
        rope=rope.read(c, fraction=0.25),
        qk_norm=QKNormConfig(around),
        gate="channel",
        bias=bias,
        bias_out=bias,
    )
    G = c.size("linear_num_key_heads", default=16)
    linear = DeltaNetConfig(
        c.size("linear_num_value_heads", default=32),
        c.size("linear_key_head_dim", default=128),
        c.size("linear_value_head_dim", default=128),
        norm(c).eps,
        W=c.size("linear_conv_kernel_dim", default=4),
        decay="head",
        G=G,
    )
    every = c.size("full_attention_interval", default=4)
    kinds = layer_types(c, [(i + 1) % every != 0 for i in range(layers(c))], ("linear_attention",))
    blocks = [BlockConfig(linear if kind else whole, ffn, around) for kind, ffn in zip(kinds, ffns)]
    return lm(c, blocks, norm=around)
