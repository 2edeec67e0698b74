"""OLMo 3 (arXiv:2512.13961): OLMo 2 with three local layers to a global one, of which only the global ones stretch."""

from jaxlm.convert import olmo2, rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.usual import IGNORED, attention, layer_types, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, QKNormConfig, RopeConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"olmo3": "Olmo3ForCausalLM"}
DEFAULTS = {"max_position_embeddings": 2_048}
NAMES = olmo2.NAMES


def config(c: Fields) -> LMConfig:
    after, bias, window = norm(c, 1e-5), c.bool("attention_bias", default=False), c.size("sliding_window", default=4096)

    def block(local: bool) -> BlockConfig:
        turned = rope.by_kind(c, local, 500_000.0, 500_000.0)
        if local:
            turned = RopeConfig(turned.base)
        normed = QKNormConfig(after, joint=True)
        mixer = attention(c, rope=turned, window=window if local else None, qk_norm=normed, bias=bias, bias_out=bias)
        return BlockConfig(mixer, mlp(c), norm=None, norm_out=after)

    local = layer_types(c, [(i + 1) % 4 != 0 for i in range(layers(c))])
    return lm(c, [block(one) for one in local], norm=after)
