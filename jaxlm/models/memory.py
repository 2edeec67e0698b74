"""A model that is a network with a memory of its own: NTM and DNC over tokens."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.models import flops
from jaxlm.models.model import ModelConfig, Output, Path, logits
from jaxlm.nn import init
from jaxlm.nn.embed import Embed
from jaxlm.nn.memory import MemoryNetwork, MemoryUnitConfig, NTMConfig
from jaxlm.nn.stack import LayersConfig
from jaxlm.sharding import weight


@dataclasses.dataclass(frozen=True)
class MemoryConfig(ModelConfig):
    """A neural Turing machine or a differentiable neural computer, see `nn.memory`; it predicts tokens as an LM does.

    It has no layers, and float32 states. It is trained and scored, and writes no text.
    """

    V: int  # vocabulary
    D: int  # width of embeddings and of what comes out
    Z: int  # units of the controller
    memory: MemoryUnitConfig = NTMConfig()
    dtype: str = "float32"
    remat: str = "none"

    def __post_init__(self):
        check(self, V=">= 1", D=">= 1", Z=">= 1")

    def build(self, stacked: bool = True) -> "MemoryModel":
        return MemoryModel(self)

    def example(self) -> tuple[Any, ...]:
        return (jnp.zeros((1, 1), jnp.int32),)

    def stacks(self) -> dict[Path, tuple[LayersConfig, ...]]:
        return {}

    def flops(self, lengths: Mapping[str, int]) -> float:
        """Of products with weights, and of addressing: every head meets every row about three times."""
        c = self.memory
        return lengths["T"] * (6 * flops.matmul_parameters(self) + 18 * 2 * c.H * c.M * c.K)


class MemoryModel(nn.Module):
    """As `models.LM`."""

    c: MemoryConfig

    def __call__(self, tokens_BT: Array, positions_BT: Array | None = None, segments_BT: Array | None = None) -> Array:
        return logits(self.c, self.forward(tokens_BT, positions_BT, segments_BT))

    @nn.compact
    def forward(self, tokens_BT: Array, positions_BT: Array | None = None, segments_BT: Array | None = None) -> Output:
        """Positions are what the memory makes of them: none are needed."""
        c = self.c
        x_BTD, _ = Embed(c.V, c.D, jnp.float32, name="embed")(tokens_BT)
        y_BTD = MemoryNetwork(c.memory, c.Z, name="network")(x_BTD, segments_BT)
        head_VD = weight(self, "head", (c.V, c.D), ("vocab", "embed"), init.fan_in((1,)), (1,))
        return Output(sharding.constrain(y_BTD, *sharding.stream(y_BTD.shape[1])), head_VD, (), {})
