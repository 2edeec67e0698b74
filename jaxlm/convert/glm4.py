"""GLM-4-0414 (THUDM 2025): GLM-4 with norms of what branches give, too."""

from jaxlm.convert import glm
from jaxlm.convert.fields import Fields
from jaxlm.convert.glm import DEFAULTS, IGNORED
from jaxlm.convert.names import same
from jaxlm.convert.usual import layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"glm4": "Glm4ForCausalLM"}
NAMES = glm.NAMES | {
    "model.layers.{}.post_self_attn_layernorm.weight": same("norm1_out.scale"),
    "model.layers.{}.post_mlp_layernorm.weight": same("norm2_out.scale"),
}


def config(c: Fields) -> LMConfig:
    around = norm(c, 1.5625e-7)
    return lm(c, [BlockConfig(glm.mixer(c), mlp(c), around, norm_out=around)] * layers(c), norm=around)
