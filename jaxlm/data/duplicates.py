"""Near duplicates in a stream of texts: MinHash and locality-sensitive hashing (Broder 1997; Lee et al. 2022).

Two texts are as alike as their sets of word n-grams: J = |A and B| / |A or B|. The least of a random hash over a set is
the same for two sets with probability J, so HASHES of them estimate it. They are cut into BANDS; two texts meet where
one band is equal, with probability 1 - (1 - J^rows)^bands, and count as duplicates where the estimate is high enough.
Memory is bounded: tables of a fixed size, in which new texts displace old ones.
"""

import re
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from jaxlm import arguments
from jaxlm.errors import UserError

BANDS, ROWS = 20, 6
HASHES = BANDS * ROWS
MIX = np.uint64(0x9E3779B97F4A7C15)
WORDS = 1 << 20  # words whose hashes are kept


class Match(NamedTuple):
    """The earlier text that one repeats, by its number in the stream, and how alike they are."""

    of: int
    similarity: float


class NearDuplicates:
    """Add texts one by one. `threshold`: the least similarity of duplicates; `texts`: how many are remembered, each
    of HASHES bytes and as much again in tables. Texts of less than `n` words are compared whole."""

    def __init__(self, threshold: float = 0.7, texts: int = 1 << 20, n: int = 5, seed: int = 0):
        if not 0 < arguments.number(threshold, "threshold") <= 1:
            raise UserError(f"threshold must lie in 0 .. 1, got {threshold:g}")
        self.threshold, self.n = threshold, arguments.integer(n, "n", 1)
        self.kept = arguments.integer(texts, "texts", 1, 2**31 - 2)
        rng = np.random.default_rng(seed)
        self.odd_H = rng.integers(0, 2**31, HASHES, np.uint32) * np.uint32(2) + np.uint32(1)
        self.add_H = rng.integers(0, 2**32, HASHES, np.uint32)
        self.slots = 1 << (2 * self.kept - 1).bit_length()
        self._mark = np.zeros((BANDS, self.slots), np.uint16)
        self._at = np.full((BANDS, self.slots), -1, np.int32)
        self._signatures = np.zeros((self.kept, HASHES), np.uint8)
        self._words: dict[str, int] = {}
        self.seen = 0

    @property
    def memory(self) -> int:
        """Bytes of the tables, which never grow."""
        return self._mark.nbytes + self._at.nbytes + self._signatures.nbytes

    def shingles(self, text: str) -> np.ndarray:
        """A hash of each run of n words."""
        words = re.findall(r"\w+", text.lower())
        if len(self._words) > WORDS:
            self._words.clear()
        known = self._words
        ids = np.array([known.get(w) or known.setdefault(w, zlib.crc32(w.encode())) for w in words], np.uint64)
        n = min(self.n, max(1, len(ids)))
        h = np.zeros(max(0, len(ids) - n + 1), np.uint64)
        for i in range(n):
            h = (h ^ ids[i : i + len(h)]) * MIX
            h ^= h >> np.uint64(29)
        return np.unique(h)

    def signature(self, text: str) -> np.ndarray | None:
        """(HASHES,) least hashes; None of a text without words."""
        h = self.shingles(text)
        if not len(h):
            return None
        least, h = np.full(HASHES, 2**32 - 1, np.uint32), (h >> np.uint64(32)).astype(np.uint32)
        for first in range(0, len(h), 1024):
            mixed_HS = self.odd_H[:, None] * h[None, first : first + 1024]
            mixed_HS += self.add_H[:, None]
            np.minimum(least, mixed_HS.min(1), out=least)
        return least

    def add(self, text: str) -> Match | None:
        """What the text repeats, None where it is new; it is remembered only then."""
        number, self.seen = self.seen, self.seen + 1
        if number >= 2**31 - 1:
            raise UserError("more than 2**31 texts: divide them")
        signature = self.signature(text)
        if signature is None:
            return None
        # Of each band one number, which names a slot and a mark that must be equal.
        keys = np.zeros(BANDS, np.uint64)
        for column in signature.reshape(BANDS, ROWS).T.astype(np.uint64):
            keys = (keys ^ column) * MIX
            keys ^= keys >> np.uint64(31)
        slot, mark = (keys & np.uint64(self.slots - 1)).astype(np.int64), (keys >> np.uint64(48)).astype(np.uint16)
        band, short = np.arange(BANDS), (signature & 255).astype(np.uint8)
        at = self._at[band, slot]
        near = np.unique(at[(at >= 0) & (self._mark[band, slot] == mark) & (at > number - self.kept)])
        if len(near):
            equal = (self._signatures[near % self.kept] == short[None]).mean(1)
            alike = (equal - 1 / 256) / (1 - 1 / 256)  # bytes agree by chance too
            best = int(alike.argmax())
            if alike[best] >= self.threshold:
                return Match(int(near[best]), float(alike[best]))
        self._at[band, slot], self._mark[band, slot] = number, mark
        self._signatures[number % self.kept] = short
        return None


def deduplicated(texts: Iterable[str], finder: NearDuplicates | None = None) -> Iterator[tuple[str, Match | None]]:
    """Each text with what it repeats."""
    finder = finder or NearDuplicates()
    for text in texts:
        yield text, finder.add(text)
