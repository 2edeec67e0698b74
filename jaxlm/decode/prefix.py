"""The prefix cache: what the model remembers of beginnings of texts, so that others that begin alike need not be read.

Texts are cut into blocks, each known by a hash of all tokens up to its end: key = hash(parent's key, its tokens). A
block has its own slots only; where the budget is short the least recently used one that no other continues goes first.
"""

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

BLOCK = 64  # tokens; the rest of a text is never shared
Key = bytes


@dataclasses.dataclass
class Piece:
    """What `rows.cut` took of a block."""

    value: Any
    nbytes: int


class PrefixCache:
    """Pieces of at most `budget` bytes together."""

    def __init__(self, budget: int):
        self.budget, self.nbytes, self.hits, self.asked = budget, 0, 0, 0
        # From the least recently used on. A block is always used before those that it continues, so that the first is
        # one that no other continues.
        self._pieces: OrderedDict[Key, Piece] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pieces)

    def keys(self, tokens: Sequence[int], adapter: int = 0) -> list[Key]:
        """One for each whole block, of what the model with this adapter remembers."""
        found, key = [], hashlib.sha256(str(adapter).encode()).digest()
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            key = hashlib.sha256(key + np.asarray(tokens[start : start + BLOCK], np.int64).tobytes()).digest()
            found.append(key)
        return found

    def find(self, keys: Sequence[Key]) -> list[Any]:
        """The pieces of the longest beginning that is known."""
        count = next((i for i, key in enumerate(keys) if key not in self._pieces), len(keys))
        self.asked, self.hits = self.asked + len(keys), self.hits + count
        self._used(keys[:count])
        return [self._pieces[key].value for key in keys[:count]]

    def add(self, keys: Sequence[Key], make: Callable[[], Any]) -> None:
        """Keeps what `make` gives for the last of these keys, unless it is here, or those before it are not."""
        if keys[-1] in self._pieces or (len(keys) > 1 and keys[-2] not in self._pieces):
            return
        value = make()
        nbytes = sum(x.nbytes for x in jax.tree.leaves(value))
        if nbytes > self.budget:
            return
        self._pieces[keys[-1]] = Piece(value, nbytes)
        self.nbytes += nbytes
        self._used(keys)
        while self.nbytes > self.budget:
            self.nbytes -= self._pieces.popitem(last=False)[1].nbytes

    def _used(self, keys: Sequence[Key]) -> None:
        for key in reversed(keys):
            if key in self._pieces:
                self._pieces.move_to_end(key)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._pieces)
