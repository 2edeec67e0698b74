"""Rows of the held-out splits to score a model on: all of them, or a fixed sample spread over all.

Which rows these are depends on the held-out text, on T and on the size asked for alone, not on batches, on processes or
on the order of the sources.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxlm.data.measures import text_measures
from jaxlm.data.pack import Batch, pack
from jaxlm.data.shards import Shards
from jaxlm.data.words import with_words
from jaxlm.text import Tokenizer


def in_order(heldout: Sequence[Shards]) -> list[Shards]:
    """The splits in an order that is of their contents, so that no number depends on how a config lists its sources."""
    return sorted(heldout, key=lambda shards: shards.digest)


@dataclass(frozen=True)
class HeldoutRows:
    """Windows of T + 1 held-out tokens, each beginning with the last token of the one before it.

    Attributes:
        splits: the held-out split of each source, in the order of `in_order`.
        starts: for each split, the positions in it where its rows begin, ascending.
        T: labels of a row; the last row of a split has fewer.
        tokenizer: of all splits.
        words: see `DataConfig`.
    """

    splits: tuple[Shards, ...]
    starts: tuple[Sequence[int], ...]
    T: int
    tokenizer: Tokenizer
    words: bool = False

    @cached_property
    def labels(self) -> int:
        """Tokens that are scored, each once."""
        return sum(_labels(shards, starts, self.T) for shards, starts in zip(self.splits, self.starts))

    @property
    def share(self) -> float:
        """`labels` of all that the splits have."""
        return self.labels / sum(shards.tokens - 1 for shards in self.splits)

    @cached_property
    def bytes(self) -> float:
        """UTF-8 bytes of the text that is scored.

        Exact for a whole split. In a part of one a token counts the bytes of its piece, times what the split has of
        text for a byte of pieces: 1 unless the tokenizer changes the text.
        """
        return sum(self._bytes(shards, starts) for shards, starts in zip(self.splits, self.starts))

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """What an objective's sums over all these rows mean to people, see `text_measures`."""
        return text_measures(sums, self.bytes / self.labels)

    def _bytes(self, shards: Shards, starts: Sequence[int]) -> float:
        if _labels(shards, starts, self.T) == shards.tokens - 1:
            return shards.bytes
        lengths_V = self.tokenizer.byte_lengths_V
        whole = sum(int(lengths_V[block].sum()) for block in shards.blocks())
        part = sum(int(lengths_V[shards.window(start + 1, self.T)].sum()) for start in starts)
        return part * (shards.bytes / whole) if whole else 0.0

    def batches(self, batch: int, rows: Sequence[int]) -> Iterator[Batch]:
        """The `rows` of every `batch` rows. All have the same shape; what the text does not fill has weight 0."""
        every = [(shards, starts, len(starts)) for shards, starts in zip(self.splits, self.starts)]
        for first in range(0, sum(count for *_, count in every), batch):
            windows = np.full((len(rows), self.T + 1), self.tokenizer.eot, self.splits[0].dtype)
            lengths = np.zeros(len(rows), np.int32)
            for row, at in enumerate(rows):
                at += first
                for shards, starts, count in every:
                    if at < count:
                        window = shards.window(starts[at], self.T + 1)
                        windows[row, : len(window)] = window
                        lengths[row] = len(window) - 1
                        break
                    at -= count
            made = pack(windows, self.tokenizer.eot, lengths)
            yield with_words(made, self.tokenizer) if self.words else made


def heldout_rows(
    heldout: Sequence[Shards], T: int, tokenizer: Tokenizer, tokens: int = 0, words: bool = False
) -> HeldoutRows:
    """The rows that hold some `tokens` labels, at equal distances over all splits; all rows for 0 or more than there
    are. Every split has one at least."""
    splits = in_order(heldout)
    counts = [len(range(0, shards.tokens - 1, T)) for shards in splits]
    whole, wanted = sum(counts), -(-tokens // T)
    starts: list[Sequence[int]] = [range(0, shards.tokens - 1, T) for shards in splits]
    if 0 < wanted < whole:
        picked = (2 * np.arange(wanted) + 1) * whole // (2 * wanted)  # the middles of equal parts
        ends = np.cumsum(counts)
        for i, (count, end) in enumerate(zip(counts, ends.tolist())):
            mine = picked[(picked >= end - count) & (picked < end)] - (end - count)
            starts[i] = (T * (mine if len(mine) else np.array([count // 2]))).tolist()
    return HeldoutRows(tuple(splits), tuple(starts), T, tokenizer, words)


def _labels(shards: Shards, starts: Sequence[int], T: int) -> int:
    """Only the last row of a split may be short; every split has a row."""
    return T * (len(starts) - 1) + min(T, shards.tokens - 1 - starts[-1])
