"""One layer applied many times, with the same weights every time."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn.context import Context
from jaxlm.nn.mixer import FeedForwardConfig, LayerConfig, MixerConfig
from jaxlm.nn.moe import MoEConfig


@dataclasses.dataclass(frozen=True)
class SharedConfig(LayerConfig):
    """x = layer(... layer(layer(x))), `times` times (ALBERT; Lan et al. 2019, arXiv:1909.11942; Dehghani et al. 2018,
    arXiv:1807.03819). Its weights are those of one layer, its compute that of `times`."""

    layer: LayerConfig
    times: int

    def __post_init__(self):
        check(self, times=">= 1")
        if any(isinstance(ffn, MoEConfig) for ffn in self.layer.ffns):
            raise UserError("a layer with experts reports their use once, so it cannot be repeated: use plain layers")

    @property
    def parts(self) -> dict[str, MixerConfig | FeedForwardConfig]:
        return self.layer.parts

    def score_flops(self, T: int) -> float:
        return self.times * self.layer.score_flops(T)

    def init_cache(self, B: int, length: int, dtype: Any) -> Any:
        raise UserError("a repeated layer keeps no cache, so it does not decode")

    def build(self, depth: int, name: str) -> nn.Module:
        return Shared(self, depth, name=name)


class Shared(nn.Module):
    """x_BTD, context, past (None) -> x_BTD, no state and no statistics."""

    c: SharedConfig
    depth: int

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Any = None) -> tuple[Array, tuple[Any, Any]]:
        c = self.c

        def once(layer: nn.Module, x_BTD: Array, number: Array) -> tuple[Array, None]:
            return layer(x_BTD, dataclasses.replace(context, layer=context.layer + number))[0], None

        repeat = nn.scan(once, variable_broadcast="params", split_rngs={"params": False, "dropout": True})
        x_BTD, _ = repeat(c.layer.build(self.depth * c.times, "layer"), x_BTD, jnp.arange(c.times))
        return x_BTD, ((), {})
