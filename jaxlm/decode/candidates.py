"""The table of candidates for the next token, as lectures draw it."""

from collections.abc import Callable

import jax
import numpy as np

from jaxlm.axes import Array


def candidates(logits_V: Array, drawn_V: Array, k: int, spell: Callable[[int], str]) -> str:
    """The k likeliest tokens of `logits_V`: their probabilities, the sums of these so far, and the probabilities after
    a sampler has made `drawn_V` of them."""
    p_V, q_V = (np.asarray(jax.nn.softmax(x), np.float64) for x in (logits_V, drawn_V))
    best = np.argsort(-p_V, kind="stable")[:k]
    lines = ["rank      p    sum  drawn  token"]
    for rank, (i, total) in enumerate(zip(best, np.cumsum(p_V[best])), 1):
        lines.append(f"{rank:4} {p_V[i]:6.3f} {total:6.3f} {q_V[i]:6.3f}  {spell(int(i))!r}")
    return "\n".join(lines)
