"""From rows of consecutive tokens to what a training step reads."""

import numpy as np

Batch = dict[str, np.ndarray]


def pack(rows: np.ndarray, eot: int, lengths: np.ndarray | None = None) -> Batch:
    """Inputs, next-token labels and document boundaries of rows of consecutive tokens.

    Args:
        rows: (B, T + 1), any integer dtype.
        eot: the id that begins each document.
        lengths: (B,) how many labels of each row count, 0 to T; all T if None. What lies beyond is padding.

    Returns:
        Arrays of shape (B, T):
        `tokens` int32, and `labels` int32, the token after each;
        `segments` int32, the document within the row: 1 for the first, which may begin before the row, one more at each
        `eot`, and 0 for padding;
        `positions` int32, counted from 0 in each segment;
        `weights` float32, 1 where the label counts and 0 for padding.
    """
    B, T = rows.shape[0], rows.shape[1] - 1
    tokens = rows[:, :-1].astype(np.int32)
    labels = rows[:, 1:].astype(np.int32)
    starts = tokens == eot
    starts[:, 0] = True
    segments = np.cumsum(starts, axis=1, dtype=np.int32)
    places = np.arange(T, dtype=np.int32)
    positions = places - np.maximum.accumulate(np.where(starts, places, 0), axis=1)
    weights = np.ones((B, T), np.float32)
    if lengths is not None:
        padding = places >= np.asarray(lengths)[:, None]
        segments[padding] = 0
        positions[padding] = 0
        weights[padding] = 0
    return {"tokens": tokens, "labels": labels, "segments": segments, "positions": positions, "weights": weights}
