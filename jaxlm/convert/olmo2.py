"""OLMo 2 (arXiv:2501.00656): what branches give is normed, not what they read; queries and keys are normed jointly."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import flat, same
from jaxlm.convert.usual import ATTENTION, IGNORED, MLP, TOP, attention, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, QKNormConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"olmo2": "Olmo2ForCausalLM"}
DEFAULTS = {"max_position_embeddings": 2_048}

NAMES = (
    TOP
    | ATTENTION
    | MLP
    | {
        "model.layers.{}.self_attn.q_norm.weight": flat("mixer.q_norm.scale"),
        "model.layers.{}.self_attn.k_norm.weight": flat("mixer.k_norm.scale"),
        "model.layers.{}.post_attention_layernorm.weight": same("norm1_out.scale"),
        "model.layers.{}.post_feedforward_layernorm.weight": same("norm2_out.scale"),
    }
)


def config(c: Fields) -> LMConfig:
    after, bias = norm(c, 1e-5), c.bool("attention_bias", default=False)
    mixer = attention(c, rope=rope.read(c), qk_norm=QKNormConfig(after, joint=True), bias=bias, bias_out=bias)
    return lm(c, [BlockConfig(mixer, mlp(c), norm=None, norm_out=after)] * layers(c), norm=after)
