"""What an attention is asked to do: the options known when tracing, the arrays beside q, k and v, the one score."""

import dataclasses
from typing import NamedTuple

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
