"""HunYuan-A13B (Tencent 2025): the attention of its dense models, and a mixture beside one shared expert."""

from jaxlm.convert import hunyuan_v1_dense
from jaxlm.convert.fields import Fields
from jaxlm.convert.hunyuan_v1_dense import DEFAULTS, IGNORED, mixer
from jaxlm.convert.mixtures import EXPERTS, shared
from jaxlm.convert.names import linear
from jaxlm.convert.usual import activation, layers, lm, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, MoEConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"hunyuan_v1_moe": "HunYuanMoEV1ForCausalLM"}
EXPERTS = {name: rule for name, rule in EXPERTS.items() if ".gate.weight" not in name}
NAMES = (
    hunyuan_v1_dense.NAMES
    | EXPERTS
    | shared("shared_mlp")
    | {"model.layers.{}.mlp.gate.wg.weight": linear("ffn.router")}
)


def config(c: Fields) -> LMConfig:
    experts = MoEConfig(
        E=_one(c, "num_experts", 1),
        top_k=_one(c, "moe_topk", 1),
        F=_one(c, "moe_intermediate_size", c.size("intermediate_size")),
        activation=activation(c, "hidden_act", "silu"),
        shared=_one(c, "num_shared_expert", 1),
    )
    return lm(c, [BlockConfig(mixer(c), experts, norm(c, 1e-5))] * layers(c), norm=norm(c, 1e-5))


def _one(c: Fields, key: str, default: int) -> int:
    """The published file says some numbers once a layer; they are all the same."""
    value = c.get(key, default=default)
    if isinstance(value, list):
        if len({*map(str, value)}) != 1:
            raise c.error(key, f"differs between layers, which is not supported: {str(value)[:60]}")
        return Fields({key: value[0]}, c.where).size(key)
    return c.size(key, default=default)
