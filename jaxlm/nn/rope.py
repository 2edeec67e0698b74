"""Rotary position embeddings (RoPE) as part of a mixer's config."""

import dataclasses

import jax.numpy as jnp

from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.ops import rope
from jaxlm.ops.rope import Scaling, Unscaled


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary position embeddings (RoPE) over the first `fraction` of each head, see `ops.rope`."""

    base: float = 10_000.0
    scaling: Scaling = Unscaled()
    fraction: float = 1.0  # of the head width
    interleaved: bool = False  # neighbours are paired, not halves

    def __post_init__(self):
        check(self, base="> 1", fraction="(0, 1]")

    def width(self, K: int) -> int:
        """How many entries of a head of width K turn. Raises UserError for an odd number."""
        width = int(K * self.fraction)
        if width % 2 or not width:
            raise UserError(f"rotary positions turn pairs, but {self.fraction:g} of the head width {K} is {width}")
        return width

    def rotate(self, x_BTHK: Array, positions_BT: Array, length: Array | int) -> Array:
        """Queries or keys turned by their positions, where the longest text has `length` tokens."""
        w_k = self.scaling.frequencies(self.width(x_BTHK.shape[-1]), self.base, length)
        return rope.rotate(x_BTHK, positions_BT, w_k, self.scaling.attention_factor, self.interleaved)


def text_length(positions_BT: Array) -> Array:
    """Tokens of the longest text of a call, padding excluded: it decides for all rows, as in transformers."""
    return jnp.max(positions_BT) + 1
