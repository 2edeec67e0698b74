"""Attention masks: who may attend to whom, as a function of positions and segments.

Every token has a position and a segment. Segment 0 is padding, 1, 2, ... are the documents packed into a row, -1 an
empty slot of a cache. A query sees a key of its own segment, not later than itself (causal), less than `window` back,
in the same `chunk`.
"""

import jax.numpy as jnp

from jaxlm.axes import Array


def visible(
    query_BT: Array,
    key_BS: Array,
    query_segments_BT: Array | None = None,
    key_segments_BS: Array | None = None,
    *,
    causal: bool = True,
    window: int | None = None,
    chunk: int | None = None,
) -> Array:
    """Boolean mask (B, T, S) from positions `query_BT`, `key_BS` and segments (None: one segment for all).

    Rows may be 1 for positions shared by the batch. A window of W sees the current and the W - 1 positions before.
    A chunk of W holds positions 0 .. W - 1, the next W .. 2 W - 1, and so on (Llama 4).
    """
    back_BTS = query_BT[:, :, None] - key_BS[:, None, :]
    mask_BTS = back_BTS >= 0 if causal else jnp.ones_like(back_BTS, bool)
    if window is not None:
        mask_BTS &= (back_BTS < window) & (back_BTS > -window)
    if chunk is not None:
        mask_BTS &= (query_BT // chunk)[:, :, None] == (key_BS // chunk)[:, None, :]
    if query_segments_BT is not None and key_segments_BS is not None:
        mask_BTS = mask_BTS & (query_segments_BT[:, :, None] == key_segments_BS[:, None, :])
    return mask_BTS


def cache_slots(S: int, end: Array, start_B: Array) -> tuple[Array, Array]:
    """Positions (B, S) and segments (B, S) of a cache's S slots after `end` tokens, () or (B,), were written.

    Token i lies in slot i mod S, so the slots hold the last S tokens: a cache shorter than the text is a ring, and
    one formula serves both. Row b's text begins at token `start_B[b]` (what stands before is left padding).
    Segments are 1 for text, 0 for padding and -1 for a slot not written yet.
    """
    last_B1 = jnp.reshape(end, (-1, 1)) - 1
    token_BS = last_B1 - (last_B1 - jnp.arange(S)[None]) % S  # the newest that belongs in each slot; negative: none yet
    position_BS = token_BS - start_B[:, None]
    segment_BS = jnp.where(token_BS < 0, -1, jnp.where(position_BS < 0, 0, 1))
    return position_BS, segment_BS
