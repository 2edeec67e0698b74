"""Who meets whom in ring attention, and when: shapes known before anything is computed, the same on all devices.

Keys travel round a ring of n devices: at the hop of offset o a device holds those of the o-th device before it. A hop
is a list of tasks, each a stretch of the device's queries that meets a stretch of the keys at hand; what no query can
see is in no task.

A causal row is held in zigzag order: cut into 2 n pieces, device i has pieces i and 2 n - 1 - i, low and high. At every
hop but the first its high queries see the low keys of any device, and one other pair is visible in full: the low ones
of an earlier device, or the high ones of a later. So all devices do the same, exactly half of the full work, and
compute no masked block but on the diagonal. Where a window ends within half of the row, the row stays in order and the
hops out of reach are left out.
"""

import dataclasses

from jaxlm.ops.blockwise_bands import Band, bands
from jaxlm.ops.rule import Rule


@dataclasses.dataclass(frozen=True)
class Task:
    """Queries `q` .. `q + Q` of a device meet keys `k` .. `k + K` of those at hand. None as a start means the half that
    the other device's place decides: low if its keys are earlier, else high."""

    q: int | None
    Q: int
    k: int | None
    K: int
    diagonal: bool = False  # queries and keys are the same stretch of the row

    def bands(self, C: int, rule: Rule) -> list[Band]:
        """Which keys each block of C queries meets."""
        return bands(self.Q, C, rule.causal, rule.reach) if self.diagonal else [Band(0, self.Q // C, self.K)]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What every one of n devices does with its T positions of a row."""

    n: int
    T: int
    zigzag: bool
    C: int  # queries of a block
    first: int  # offset of the first hop
    hops: tuple[tuple[Task, ...], ...]


def schedule(n: int, T: int, rule: Rule, block: int) -> Schedule:
    """For rows of n T positions, in blocks of about `block` queries that divide a stretch."""
    reach = n * T if rule.reach is None else rule.reach
    zigzag = rule.causal and T % 2 == 0 and 2 * reach > n * T
    C = _block(T // 2 if zigzag else T, block)
    if zigzag:
        c = T // 2
        own = Task(0, c, 0, c, diagonal=True), Task(c, c, 0, c), Task(c, c, c, c, diagonal=True)
        other = Task(c, c, 0, c), Task(None, c, None, c)
        return Schedule(n, T, True, C, 0, (own, *[other] * (n - 1)))
    far = -(-(reach - 1) // T)  # devices away that are in reach
    last = min(far, n - 1)
    first = 0 if rule.causal else -last
    if last - first >= n:  # on both sides the whole ring
        first, last = 0, n - 1
        hops = (_whole(T),) * n
    else:
        hops = tuple(_at(offset, T, reach, C) for offset in range(first, last + 1))
    return Schedule(n, T, False, C, first, hops)


def _whole(T: int) -> tuple[Task, ...]:
    return (Task(0, T, 0, T),)


def _at(offset: int, T: int, reach: int, C: int) -> tuple[Task, ...]:
    """The hop at which keys stand `offset` T places before the queries."""
    if offset == 0:
        return (Task(0, T, 0, T, diagonal=True),)
    size = min(T, C * -(-(reach - 1 - (abs(offset) - 1) * T) // C))
    near = (0, T - size) if offset > 0 else (T - size, 0)
    return (Task(near[0], size, near[1], size),)


def _block(T: int, block: int) -> int:
    """The divisor of T nearest to `block`, in ratio."""
    divisors = (d for d in range(1, T + 1) if T % d == 0)
    return min(divisors, key=lambda d: max(d / block, block / d))
