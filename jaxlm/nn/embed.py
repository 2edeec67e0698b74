"""Token embeddings, and absolute position embeddings that are added to them."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn import init
from jaxlm.ops import positions
from jaxlm.ops.embedding import lookup
from jaxlm.sharding import weight


@dataclasses.dataclass(frozen=True)
class SinusoidalConfig:
    """Sinusoidal position embeddings: fixed, no weights, any length."""

    base: float = 10_000.0
    halves: bool = False  # all sines, then all cosines (Marian), instead of in turn

    def __post_init__(self):
        check(self, base="> 1")

    def build(self, name: str) -> nn.Module:
        return Sinusoidal(self, name=name)


@dataclasses.dataclass(frozen=True)
class LearnedConfig:
    """Learned position embeddings, a vector for each; texts longer than `length` are refused."""

    length: int
    offset: int = 0  # rows of the table before that of position 0 (OPT has two)

    def __post_init__(self):
        check(self, length=">= 1", offset=">= 0")

    def build(self, name: str) -> nn.Module:
        return Learned(self, name=name)


AbsoluteConfig = SinusoidalConfig | LearnedConfig


class Sinusoidal(nn.Module):
    """x_BTD, positions_BT -> x_BTD + sinusoids."""

    c: SinusoidalConfig

    @nn.compact
    def __call__(self, x_BTD: Array, positions_BT: Array) -> Array:
        e_BTD = positions.sinusoidal(positions_BT, x_BTD.shape[-1], self.c.base, self.c.halves).astype(x_BTD.dtype)
        return x_BTD + jnp.broadcast_to(e_BTD, x_BTD.shape)


class Learned(nn.Module):
    """x_BTD, positions_BT -> x_BTD + table[positions]. Positions beyond the table are refused where T shows it."""

    c: LearnedConfig

    @nn.compact
    def __call__(self, x_BTD: Array, positions_BT: Array) -> Array:
        if x_BTD.shape[1] > self.c.length:
            raise UserError(f"{x_BTD.shape[1]} tokens, but the model has learned positions for {self.c.length}")
        return _added(self, x_BTD, positions_BT + self.c.offset, self.c.length + self.c.offset)


class Types(nn.Module):
    """x_BTD, types_BT -> x_BTD + table[types]: token type (segment) embeddings, BERT's first and second text."""

    kinds: int

    @nn.compact
    def __call__(self, x_BTD: Array, types_BT: Array) -> Array:
        return _added(self, x_BTD, types_BT, self.kinds)


def _added(module: nn.Module, x_BTD: Array, ids_BT: Array, rows: int) -> Array:
    """x_BTD + table[ids], of a table too small to divide."""
    table_SD = weight(module, "table", (rows, x_BTD.shape[-1]), (None, "embed"), init.EMBEDDING)
    table_SD = jnp.asarray(sharding.constrain(table_SD, None, None), x_BTD.dtype)
    where = sharding.rows(x_BTD.shape[1]) if ids_BT.shape[0] > 1 else (None, None, None)
    e_BTD = table_SD.at[ids_BT].get(out_sharding=sharding.out_sharding(*where), mode="clip")
    return x_BTD + sharding.constrain(jnp.broadcast_to(e_BTD, x_BTD.shape), *sharding.stream(x_BTD.shape[1]))


class Embed(nn.Module):
    """Token embedding, ids_BT -> x_BTD. Returns the table too, which a tied head multiplies by."""

    V: int
    D: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, ids_BT: Array) -> tuple[Array, Array]:
        table_VD = weight(self, "table", (self.V, self.D), ("vocab", "embed"), init.EMBEDDING)
        return lookup(table_VD, ids_BT, self.dtype), table_VD
