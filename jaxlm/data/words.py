"""Where words begin in rows of tokens."""

import functools

import numpy as np

from jaxlm.data.pack import Batch
from jaxlm.text import Tokenizer


def with_words(batch: Batch, tokenizer: Tokenizer) -> Batch:
    """The batch with "words" (B, T): the place, in its row, of the first token of each one's word. A word begins at a
    special token, behind one, at white space, and at the start of a segment."""
    tokens_BT, segments_BT = batch["tokens"], batch["segments"]
    begins_V, special_V = _begins(tokenizer)
    starts_BT = begins_V[tokens_BT]
    starts_BT[:, 0] = True
    starts_BT[:, 1:] |= special_V[tokens_BT[:, :-1]] | (segments_BT[:, 1:] != segments_BT[:, :-1])
    places_BT = np.broadcast_to(np.arange(tokens_BT.shape[1], dtype=np.int32), tokens_BT.shape)
    return batch | {"words": np.maximum.accumulate(np.where(starts_BT, places_BT, 0), axis=1)}


@functools.lru_cache(maxsize=4)
def _begins(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Of each id whether a word begins with it, and whether it stands for no text."""
    special_V = np.array([not piece for piece in tokenizer.pieces])
    return special_V | np.array([piece[:1].isspace() for piece in tokenizer.pieces]), special_V
