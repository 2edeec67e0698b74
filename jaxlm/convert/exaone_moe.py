"""K-EXAONE (arXiv:2601.01739): EXAONE 4's attention behind norms, and DeepSeek V3's mixture."""

from jaxlm.convert import exaone4
from jaxlm.convert.exaone4 import DEFAULTS, mixers
from jaxlm.convert.fields import Fields
from jaxlm.convert.mixtures import EXPERTS, choose, shared, sigmoid
from jaxlm.convert.names import same
from jaxlm.convert.usual import NAMES as USUAL
from jaxlm.convert.usual import lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"exaone_moe": "ExaoneMoeForCausalLM"}
NAMES = USUAL | EXPERTS | shared() | {"model.layers.{}.mlp.e_score_correction_bias": same("ffn.balance")}
IGNORED = (*exaone4.IGNORED, "mtp.*")


def config(c: Fields) -> LMConfig:
    F = c.size("moe_intermediate_size", default=1024)
    experts = sigmoid(c, c.size("num_experts", default=64), F, 8, 1, 2.5)
    ffns = choose(c, mlp(c), experts, 1)
    before = norm(c, 1e-5)
    return lm(c, [BlockConfig(mixer, ffn, before) for mixer, ffn in zip(mixers(c), ffns)], norm=before)
