"""The shapes that rows and their slots may have: few, so that all are compiled before the first text comes."""

import dataclasses
from collections.abc import Callable, Iterator

GROWTH = 4
FIRST = 256  # slots of the smallest
Shape = tuple[int, int]  # rows, slots


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Rows and slots grow by GROWTH up to their largest; those too large for the memory are left out."""

    rows: tuple[int, ...]
    slots: tuple[int, ...]
    fits: Callable[[int, int], bool]

    @staticmethod
    def of(over: int, rows: int, slots: int, fits: Callable[[int, int], bool]) -> "Shapes":
        """With rows in multiples of `over`."""
        return Shapes(_steps(over, rows), _steps(min(FIRST, slots), slots), fits)

    def __iter__(self) -> Iterator[Shape]:
        return ((R, S) for R in self.rows for S in self.slots if self.fits(R, S))

    def smallest(self, rows: int, slots: int) -> Shape | None:
        """The one for so many; None where the memory has none."""
        S = next((S for S in self.slots if slots <= S), None)
        R = next((R for R in self.rows if rows <= R), None)
        return (R, S) if R and S and self.fits(R, S) else None

    def most(self, slots: int) -> int:
        """Rows that may have so many slots."""
        return max((R for R in self.rows if self.smallest(R, slots)), default=0)

    def neighbours(self, shape: Shape) -> list[Shape]:
        """One step away, of rows or of slots."""
        i, j = self.rows.index(shape[0]), self.slots.index(shape[1])
        near = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
        inside = [(a, b) for a, b in near if 0 <= a < len(self.rows) and 0 <= b < len(self.slots)]
        return [(self.rows[a], self.slots[b]) for a, b in inside if self.fits(self.rows[a], self.slots[b])]

    def path(self, here: Shape, there: Shape) -> Iterator[Shape]:
        """The shapes on the way, the last included: what becomes less first, so that all of them fit."""
        i, j = self.rows.index(here[0]), self.slots.index(here[1])
        a, b = self.rows.index(there[0]), self.slots.index(there[1])
        while (i, j) != (a, b):
            if i > a or (j <= b and i < a):
                i += 1 if i < a else -1
            else:
                j += 1 if j < b else -1
            yield self.rows[i], self.slots[j]


def _steps(first: int, last: int) -> tuple[int, ...]:
    found = []
    while first < last:
        found.append(first)
        first *= GROWTH
    return (*found, last)
