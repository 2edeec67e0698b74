"""Texts that quantisation and pruning read, as batches of tokens."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.errors import UserError
from jaxlm.paths import expand
from jaxlm.text import Tokenizer

ROWS, B, T = 128, 4, 512


def batches(given: Any, tokenizer: Tokenizer | None, V: int | None = None, T: int = T) -> list[Any]:
    """Inputs of `calibrated`: of the path of a text file; of texts; of an array (rows, T) of tokens; or of what `data`
    makes, dictionaries with tokens, positions and segments.

    Texts are cut into rows of 512 tokens, at most 128. Raises UserError for a file that is not there, fewer tokens than
    one row, tokens outside the vocabulary, and what is none of these.
    """
    if isinstance(given, str | Path):
        path = expand(given)
        try:
            given = [path.read_text(encoding="utf-8", errors="replace")]
        except OSError as error:
            raise UserError(f"cannot read calibration text {path}: {error.strerror}") from None
    if isinstance(given, Sequence) and given and all(isinstance(text, str) for text in given):
        given = _rows(given, tokenizer, T)
    if hasattr(given, "shape"):
        tokens_NT = np.asarray(given)
        if tokens_NT.ndim != 2 or not tokens_NT.size or not np.issubdtype(tokens_NT.dtype, np.integer):
            raise UserError(f"calibration tokens must be whole numbers (rows, positions), got {tokens_NT.shape}")
        if tokens_NT.min() < 0 or (V is not None and tokens_NT.max() >= V):
            raise UserError(f"calibration tokens must be ids from 0 to {V and V - 1}")
        return [tokens_NT[i : i + B] for i in range(0, len(tokens_NT), B)]
    if not isinstance(given, Iterable) or isinstance(given, dict):
        raise UserError("calibration must be the path of a text, texts, tokens (rows, positions), or batches")
    return list(given)


def _rows(texts: Sequence[str], tokenizer: Tokenizer | None, T: int) -> np.ndarray:
    if tokenizer is None:
        raise UserError("this model has no tokenizer: give calibration as tokens, not text")
    ids: list[int] = []
    for text in texts:
        ids += tokenizer.encode(text, special=True)
        if len(ids) >= ROWS * T:
            break
    if len(ids) < T:
        raise UserError(f"calibration text has {len(ids)} tokens, fewer than one row of {T}: give more")
    return np.array(ids[: min(len(ids) // T, ROWS) * T], np.int32).reshape(-1, T)
