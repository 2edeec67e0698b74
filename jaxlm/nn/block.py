"""One layer: a mixer over positions and a feed-forward, each behind a norm and added to the residual stream."""

import dataclasses
from typing import Any

import flax.linen as nn

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.nn.attention import AttentionConfig
from jaxlm.nn.context import Context
from jaxlm.nn.mlp import MLPConfig
from jaxlm.nn.norm import NormConfig, RMSNormConfig
from jaxlm.ops.dropout import dropout


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """Pre-norm block: x += mixer(norm(x)); x += ffn(norm(x)) (Xiong et al. 2020, arXiv:2002.04745).

    Any config will do as `mixer` or `ffn` whose `build` makes a module of the same signature.
    """

    mixer: AttentionConfig
    ffn: MLPConfig
    norm: NormConfig = RMSNormConfig()
    dropout: float = 0.0  # of both branches, where a "dropout" key is given to apply

    def build(self, depth: int, name: str) -> nn.Module:
        return Block(self, depth, name=name)


class Block(nn.Module):
    """x_BTD, context, past -> x_BTD, (state, statistics)."""

    c: BlockConfig
    depth: int

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Any = None) -> tuple[Array, tuple[Any, Any]]:
        c = self.c
        # A norm's output is gathered where the stream is divided over positions; the branches give it back divided.
        h_BTD = sharding.constrain(c.norm.build("norm1")(x_BTD), "batch", None, None)
        y_BTD, state = c.mixer.build(self.depth, "mixer")(h_BTD, context, past)
        x_BTD += self._drop(y_BTD)
        h_BTD = sharding.constrain(c.norm.build("norm2")(x_BTD), "batch", None, None)
        y_BTD, statistics = c.ffn.build(self.depth, "ffn")(h_BTD)
        return x_BTD + self._drop(y_BTD), (state, statistics)

    def _drop(self, y_BTD: Array) -> Array:
        if not self.c.dropout or not self.has_rng("dropout"):
            return y_BTD
        return dropout(y_BTD, self.c.dropout, self.make_rng("dropout"), *sharding.stream(y_BTD.shape[1]))
