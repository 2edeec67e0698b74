"""What an attention is asked to do: the options known when tracing, the arrays beside q, k and v, the one score."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from jaxlm.axes import Array
from jaxlm.ops import masks
from jaxlm.ops.activations import soft_cap

MASKED = -1e30  # not -inf: a row without a visible key must give finite numbers


def score(products: Array, scale: float, softcap: float | None) -> Array:
    """scale * q.k, capped where `softcap` is given."""
    s = products * scale
    return s if softcap is None else soft_cap(s, softcap)


class Extras(NamedTuple):
    """The arrays of an attention beside q, k and v; what is None is not there. See `attention.attention`."""

    segments_BT: Array | None = None
    positions_BT: Array | None = None
    bias_HZ: Array | None = None
    sinks_H: Array | None = None
    key: Array | None = None
    numbers_BH: Array | None = None  # of each row and head in the batch, where there is a key: see `numbered`

    def numbered(self, B: int, H: int) -> "Extras":
        """With the numbers of rows and heads, which dropout draws its masks by."""
        if self.key is None or self.numbers_BH is not None:
            return self
        return self._replace(numbers_BH=jnp.arange(B * H, dtype=jnp.int32).reshape(B, H))

    def varying(self, q_BTHK: Array) -> "Extras":
        """Within shard_map: what several devices share varies over them, as q does, so that it is known over which to
        add up its gradient."""
        zero = jnp.zeros_like(q_BTHK[0, 0, 0, 0], jnp.float32)
        vary = lambda x: None if x is None else x + zero
        return self._replace(bias_HZ=vary(self.bias_HZ), sinks_H=vary(self.sinks_H))

    def names(self, positions: str | None, heads: str = "heads") -> list[tuple[str | None, ...]]:
        """The logical axes of each."""
        one_row = self.positions_BT is not None and self.positions_BT.shape[0] == 1
        at = (None if one_row else "batch", positions)
        return [("batch", positions), at, (heads, None), (heads,), (), ("batch", heads)]


@dataclasses.dataclass(frozen=True)
class Rule:
    """The options of an attention that are no arrays. See `attention.attention`."""

    causal: bool = True
    window: int | None = None
    chunk: int | None = None
    scale: float = 1.0
    softcap: float | None = None
    dropout: float = 0.0

    @property
    def reach(self) -> int | None:
        """A query sees no key this many places away: a text's places in the row differ as its positions do."""
        return min((n for n in (self.window, self.chunk) if n is not None), default=None)

    def visible(self, query_1T: Array, key_1S: Array, query_extras: Extras, key_extras: Extras) -> Array:
        """Boolean mask (B, T, S) of queries and keys at these places in the row, with the extras of those places."""
        segments = query_extras.segments_BT, key_extras.segments_BT
        mask_BTS = masks.visible(query_1T, key_1S, *segments, causal=self.causal, window=self.reach)
        if self.chunk is None:
            return mask_BTS
        query_BT, key_BS = query_extras.positions_BT, key_extras.positions_BT
        if query_BT is None or key_BS is None:
            query_BT, key_BS = query_1T, key_1S
        return mask_BTS & masks.visible(query_BT, key_BS, causal=False, chunk=self.chunk)
