"""HunYuan 1 (Tencent 2025), its dense models: Llama whose queries and keys are normed after they turn, with a base that
`alpha` stretches once for all (NTK-aware)."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import same
from jaxlm.convert.usual import ATTENTION, IGNORED, MLP, NORMS, TOP, attention, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, QKNormConfig, RopeConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config", "mixer"]

MODEL_TYPES = {"hunyuan_v1_dense": "HunYuanDenseV1ForCausalLM"}
DEFAULTS = {"max_position_embeddings": 2_048}
NORMED = {
    "model.layers.{}.self_attn.query_layernorm.weight": same("mixer.q_norm.scale"),
    "model.layers.{}.self_attn.key_layernorm.weight": same("mixer.k_norm.scale"),
}
NAMES = TOP | {name: rule for name, rule in ATTENTION.items() if "_norm." not in name} | NORMED | MLP | NORMS


def config(c: Fields) -> LMConfig:
    return lm(c, [BlockConfig(mixer(c), mlp(c), norm(c, 1e-5))] * layers(c), norm=norm(c, 1e-5))


def mixer(c: Fields) -> AttentionConfig:
    bias = c.bool("attention_bias", default=False)
    usual = attention(c, rope=None, bias=bias, bias_out=bias)
    p = c.section("rope_scaling", "rope_parameters", default={})
    alpha, turned = p.positive("alpha", default=None), p.str("rope_type", "type", default="default")
    if alpha is not None and turned == "dynamic":
        base = p.float("rope_theta", default=c.float("rope_theta", default=10_000.0))
        turn = RopeConfig(base * alpha ** (usual.K / (usual.K - 2)))
    else:
        turn = rope.read(c)
    normed = QKNormConfig(norm(c, 1e-5), after_rope=True)
    return attention(c, rope=turn, qk_norm=normed, bias=bias, bias_out=bias)
