"""Which keys each block of queries meets in blockwise attention: shapes known before anything is computed."""

import dataclasses
from typing import Any

import jax.numpy as jnp

BANDS = 8  # causal prefixes are rounded up to this many lengths, so long texts do not unroll without end


@dataclasses.dataclass(frozen=True)
class Band:
    """Blocks `first` .. `last` - 1 of C queries each: a block meets `keys` keys, the last of them `ahead` after it.

    Where the row begins or ends earlier, the keys are the first or the last of the row.
    """

    first: int
    last: int
    keys: int
    ahead: int = 0

    def key_start(self, start: Any, T: int, C: int) -> Any:
        """The first key of the block whose first query is `start`."""
        at = start + (C + self.ahead - self.keys)
        at = max(at, 0) if isinstance(at, int) else jnp.maximum(at, 0)
        return jnp.minimum(at, T - self.keys) if self.ahead else at


def bands(T: int, C: int, causal: bool, reach: int | None) -> list[Band]:
    """All blocks of a row of T, a multiple of C; no query sees a key `reach` places away."""
    n = T // C
    back = T if reach is None else C * -(-(reach - 1) // C)  # keys before a block that it may see
    if not causal:
        return [Band(0, n, min(T, C + 2 * back), back)]
    prefixes = {n * i // BANDS for i in range(BANDS)}
    edges = sorted({n} | {i for i in prefixes if i * C < back + C})
    return [Band(a, b, min(b * C, back + C)) for a, b in zip(edges, edges[1:])]
