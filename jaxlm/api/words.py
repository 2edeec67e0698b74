"""When each word was said: by what a Whisper's cross attention reads for each token of a text."""

import functools
import unicodedata
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.interpret.alignments import alignments
from jaxlm.text.transcript import Word

if TYPE_CHECKING:
    from jaxlm.api.whisper import Whisper

POSITION = 0.02  # seconds of a position of the encoder
WIDTH = 7  # of the median over positions
BUCKET = 64  # texts are padded to multiples of so many tokens: few shapes are compiled
SPACELESS = ("zh", "ja", "th", "lo", "my", "yue")  # languages whose every character is a word here


def word_times(
    m: "Whisper", features: np.ndarray, begin: list[int], ids: list[int], length: float, apart: bool
) -> list[Word]:
    """The words of a window of `length` seconds, whose text is `ids`, in seconds from its beginning.

    The weights of the heads that align (generation_config's alignment_heads, else all of the later half of layers) are
    standardised over tokens, smoothed over time by a median, averaged, and followed by dynamic time warping.
    """
    whole = [*begin, *ids, m.special.end]
    padded = whole + [m.special.end] * (-len(whole) % BUCKET)
    weights = _weights(m.config, m.alignment_heads, m.params, np.array([padded]), features.swapaxes(1, 2))
    positions = min(int(np.ceil(length / POSITION)), weights.shape[-1])
    w = np.asarray(weights)[:, : len(whole), :positions]
    w = w / w.sum(-1, keepdims=True)
    w = (w - w.mean(1, keepdims=True)) / (w.std(1, keepdims=True) + 1e-9)
    side = min(WIDTH // 2, positions - 1)
    padded_w = np.pad(w, ((0, 0), (0, 0), (side, side)), mode="reflect")
    w = np.median(np.lib.stride_tricks.sliding_window_view(padded_w, 2 * side + 1, -1), -1).mean(0)
    # The token given at row i lets the model write the next one; the last row writes the end.
    at = warped(-w[len(begin) - 1 : len(whole) - 1]) * POSITION
    parts = words_of(ids, m.say_ids, apart)
    edges = np.cumsum([0, *(len(part) for _, part in parts)])
    return [Word(float(at[i]), float(at[j]), text) for (text, _), i, j in zip(parts, edges, edges[1:])]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _weights(config: Any, heads: tuple[tuple[int, int], ...], params: Any, ids_BT: Any, features: Any) -> Any:
    found = alignments(config, params, ids_BT, features)
    heads = heads or tuple((n, h) for n in range(len(found) // 2, len(found)) for h in range(found[n].shape[1]))
    return jnp.stack([found[layer][0, head] for layer, head in heads])


def warped(cost_TS: np.ndarray) -> np.ndarray:
    """Dynamic time warping: at which column the cheapest path from corner to corner first enters each row.

    total[t, s] = cost[t, s] + min(total[t - 1, s - 1], total[t - 1, s], total[t, s - 1])
    """
    T, S = cost_TS.shape
    total = np.full((T + 1, S + 1), np.inf)
    total[0, 0] = 0
    came = np.zeros((T + 1, S + 1), np.int8)
    for t in range(1, T + 1):
        above, row = total[t - 1], total[t]
        for s in range(1, S + 1):
            ways = above[s - 1], above[s], row[s - 1]
            came[t, s] = best = min(range(3), key=ways.__getitem__)
            row[s] = cost_TS[t - 1, s - 1] + ways[best]
    first, t, s = np.zeros(T, int), T, S
    while t > 0:
        first[t - 1] = s - 1
        way = came[t, s]
        t, s = t - (way < 2), s - (way != 1)
    return first


def words_of(
    ids: Sequence[int], say_ids: Callable[[Sequence[int]], str], apart: bool = False
) -> list[tuple[str, list[int]]]:
    """Words with their tokens: one begins at a space, or where `apart` at each character; punctuation joins the word
    before it. Tokens that are parts of a character stay together."""
    found: list[tuple[str, list[int]]] = []
    held: list[int] = []
    for i in ids:
        held.append(i)
        text = say_ids(held)
        if "�" in text:
            continue
        mark = bool(text.strip()) and all(unicodedata.category(c)[0] == "P" for c in text.strip())
        if found and (mark or not (apart or text.startswith(" "))):
            found[-1] = found[-1][0] + text, found[-1][1] + held
        else:
            found.append((text, held))
        held = []
    return [*found, (say_ids(held), held)] if held else found
