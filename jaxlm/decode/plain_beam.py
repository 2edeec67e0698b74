"""Beam search as it is taught: sum the log probabilities, reshape them to k x n, take the top k."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Step(NamedTuple):
    """The k best beginnings after one more token, best first."""

    texts_AT: np.ndarray
    total_A: np.ndarray  # sums of log probabilities
    parent_A: np.ndarray  # which beginning of the step before each continues


def plain_beam_search(
    logprobs: Callable[[np.ndarray], np.ndarray], prompt_T: Sequence[int], k: int, steps: int
) -> list[Step]:
    """Every step of the search for a text of `steps` more tokens, with k beams and without an end token.

    `logprobs` maps beginnings (A, T) to the log probabilities (A, n) of their next tokens.
    total(y_1 .. y_t) = sum_i log p(y_i | y_<i) (Sutskever et al. 2014, arXiv:1409.3215).
    """
    found = [Step(np.array([prompt_T]), np.zeros(1), np.zeros(1, int))]
    for _ in range(steps):
        texts_AT, total_A, _ = found[-1]
        total_AV = total_A[:, None] + logprobs(texts_AT)
        n = total_AV.shape[1]
        best_A = np.argsort(-total_AV.reshape(-1), kind="stable")[:k]
        parent_A, token_A = np.divmod(best_A, n)
        texts_AT = np.concatenate([texts_AT[parent_A], token_A[:, None]], 1)
        found.append(Step(texts_AT, total_AV.reshape(-1)[best_A], parent_A))
    return found[1:]


def explain(steps: Sequence[Step], words: Callable[[Sequence[int]], str]) -> str:
    """A table of the search: for every step its beams, the beam of the step before that each continues, and its total.
    `words` spells tokens, such as `tokenizer.decode`."""
    lines = ["step  beam  from   total  text"]
    for t, step in enumerate(steps, 1):
        for a, (text_T, total, parent) in enumerate(zip(step.texts_AT, step.total_A, step.parent_A), 1):
            whence = "-" if t == 1 else str(parent + 1)
            lines.append(f"{t:4}  {a:4}  {whence:>4}  {total:6.2f}  {words(text_T.tolist())}")
    return "\n".join(lines)
