"""A synthetic task: a rule that makes, for a length, a prompt and its answer, and how a row is made of them."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxlm.data.pack import Batch

PAD = 0  # no token, and in some tasks the mark that ends a prompt; the other marks follow, then the symbols
Rng = np.random.Generator
Tokens = Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Task:
    """`make(rng, n, V)` gives a prompt and an answer of at most n tokens together, as near to n as the form allows."""

    make: Callable[[Rng, int, int], tuple[Tokens, Tokens]]
    V: int  # vocabulary, unless another is asked for
    classes: Callable[[int], int]  # of a V: how many answers a guess chooses among
    least: int  # shortest row
    fixed: bool = False  # there is no other V


def marks(count: int) -> Callable[[int], int]:
    """`Task.classes` of a vocabulary of so many marks, padding among them, and symbols that are all answers."""
    return lambda V: V - count


def answer_row(prompt: Tokens, answer: Tokens, T: int) -> Batch:
    """A row for `objectives.Answers`: prompt and answer as one text of which the answer's tokens count."""
    first, n = len(prompt) - 1, len(prompt) + len(answer) - 1
    row: Batch = {name: np.zeros(T, np.int32) for name in ("tokens", "labels", "segments", "positions")}
    row["weights"] = np.zeros(T, np.float32)
    row["tokens"][: first + 1] = prompt
    row["tokens"][first + 1 : n] = answer[:-1]
    row["labels"][:n] = row["tokens"][1 : n + 1] if n < T else [*row["tokens"][1:], 0]
    row["labels"][first:n] = answer
    row["segments"][:n], row["positions"][:n], row["weights"][first:n] = 1, np.arange(n), 1
    return row
