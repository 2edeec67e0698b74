"""Tasks of memory: copying, sorting, and finding what stood where (our generators, after the papers named).

Id 1 is the mark before an answer, symbols begin at 2.
"""

import numpy as np

from jaxlm.data.synthetic.rewriting import ACT, repetition
from jaxlm.data.synthetic.task import Rng, Task, marks

BLANK = 2  # of selective copying
TIMES = 3  # at most, of repeat copy


def repeat_copy(rng: Rng, n: int, V: int):
    """x and a mark for 1, 2 or 3 -> x so many times, ACT (Graves et al. 2014, arXiv:1410.5401, 4.2)."""
    times = int(rng.integers(1, min(TIMES, n - 3) + 1))
    x = rng.integers(2 + TIMES, V, (n - 2) // (times + 1))
    return [*x, 1 + times], [*x.tolist() * times, ACT]


def sorting(rng: Rng, n: int, V: int):
    """x ACT -> x sorted; of numbers that may repeat."""
    x = rng.integers(2, V, (n - 1) // 2)
    return [*x, ACT], np.sort(x)


def associative_recall(rng: Rng, n: int, V: int):
    """Pairs of a key and a value, ACT, one of the keys -> its value (Ba et al. 2016, arXiv:1610.06258).

    Keys are the lower half of the symbols, each at most once; values the upper half.
    """
    half = (V - 2) // 2
    keys = 2 + rng.permutation(half)[: (n - 3) // 2]
    values = rng.integers(2 + half, V, len(keys))
    at = rng.integers(len(keys))
    return [*np.stack([keys, values], 1).ravel(), ACT, keys[at]], [values[at]]


def selective_copying(rng: Rng, n: int, V: int):
    """Symbols with blanks between them, ACT -> the symbols without the blanks (Gu & Dao 2023, arXiv:2312.00752).

    A quarter of the row are symbols.
    """
    count = max(1, n // 4)
    x = np.full(n - 1 - count, BLANK)
    at = np.sort(rng.permutation(len(x))[:count])
    x[at] = rng.integers(3, V, count)
    return [*x, ACT], x[at]


def induction(rng: Rng, n: int, V: int):
    """Symbols among which ACT stands once, and ACT again -> the symbol that followed it (Olsson et al. 2022,
    arXiv:2209.11895)."""
    x = rng.integers(2, V, n - 2)
    at = rng.integers(len(x) - 1)
    x[at] = ACT
    return [*x, ACT], [x[at + 1]]


TASKS = {
    "copy": Task(repetition, 12, marks(2), 3),
    "repeat_copy": Task(repeat_copy, 12, marks(1 + TIMES), 4),
    "sorting": Task(sorting, 18, marks(2), 3),
    "associative_recall": Task(associative_recall, 66, lambda V: V - 2 - (V - 2) // 2, 5),
    "selective_copying": Task(selective_copying, 19, marks(3), 3),
    "induction": Task(induction, 18, marks(2), 4),
}
