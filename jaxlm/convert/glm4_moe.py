"""GLM-4.5 and 4.6 (arXiv:2508.06471) and Solar Open (arXiv:2601.07022): grouped queries, half of each head rotated, and
DeepSeek V3's mixture; the second without dense layers."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.mixtures import BALANCED, EXPERTS, choose, shared, sigmoid
from jaxlm.convert.usual import IGNORED as INV_FREQ
from jaxlm.convert.usual import NAMES as USUAL
from jaxlm.convert.usual import attention, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, QKNormConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"glm4_moe": "Glm4MoeForCausalLM", "solar_open": "SolarOpenForCausalLM"}
DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 131_072}
NAMES = USUAL | EXPERTS | BALANCED | shared()
IGNORED = (*INV_FREQ, "model.layers.{}.*")  # layers beyond the last predict further tokens


def config(c: Fields) -> LMConfig:
    solar = c.str("model_type") == "solar_open"
    before, bias = norm(c, 1e-5), c.bool("attention_bias", default=False)
    normed = QKNormConfig(before) if not solar and c.bool("use_qk_norm", default=False) else None
    turned = rope.read(c, base=1e6 if solar else 1e4, fraction=1.0 if solar else 0.5)
    mixer = attention(c, K=c.size("head_dim", default=128), rope=turned, qk_norm=normed, bias=bias)
    experts = sigmoid(c, c.size("n_routed_experts", "num_local_experts", default=128), _width(c), 8, 1, 1.0)
    dense = [experts] * layers(c) if solar else choose(c, mlp(c), experts, 1)
    return lm(c, [BlockConfig(mixer, ffn, before) for ffn in dense], norm=before)


def _width(c: Fields) -> int:
    return c.size("moe_intermediate_size", default=1408)
