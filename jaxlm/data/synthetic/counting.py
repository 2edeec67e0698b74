"""Formal languages whose answer is one token that counts or compares symbols: parity, even pairs, cycle navigation,
majority, majority count.

Vocabularies and examples are those of Beck et al. 2024 (arXiv:2405.04517); parity, even pairs and cycle navigation are
made as there (Deletang et al. 2023, arXiv:2207.02098). Of the majorities the paper gives no generator: ours draws
symbols uniformly, and of several that are commonest the lowest is the answer.
"""

import numpy as np

from jaxlm.data.synthetic.task import Rng, Task, marks

STEPS = (0, 1, -1)  # what the ids 1, 2 and 3 of cycle navigation do


def parity(rng: Rng, n: int, V: int):
    """b where the number of b's is odd, else a: ids 1 and 2."""
    x = rng.integers(1, 3, n - 1)
    return x, [1 + int((x == 2).sum()) % 2]


def even_pairs(rng: Rng, n: int, V: int):
    """a where the number of ab and ba together is even, which is where the ends are equal; else b."""
    x = rng.integers(1, 3, n - 1)
    return x, [1 + int(x[0] != x[-1])]


def cycle_navigation(rng: Rng, n: int, V: int):
    """Steps 1 (stay), 2 (forward), 3 (back) from position 0 on a cycle of V - 4: the last position p as 4 + p."""
    x = rng.integers(1, 4, n - 1)
    return x, [4 + int(np.take(STEPS, x - 1).sum()) % (V - 4)]


def majority(rng: Rng, n: int, V: int):
    """The commonest symbol."""
    x = rng.integers(1, V, n - 1)
    return x, [int(np.bincount(x).argmax())]


def majority_count(rng: Rng, n: int, V: int):
    """How often the commonest symbol occurs, as the symbol of that number, or the largest."""
    x = rng.integers(1, V, n - 1)
    return x, [min(int(np.bincount(x).max()), V - 1)]


TASKS = {
    "parity": Task(parity, 3, lambda V: 2, 2, True),
    "even_pairs": Task(even_pairs, 3, lambda V: 2, 2, True),
    "cycle_navigation": Task(cycle_navigation, 9, marks(4), 2),
    "majority": Task(majority, 64, marks(1), 2),
    "majority_count": Task(majority_count, 64, marks(1), 2),
}
