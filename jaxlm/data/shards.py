"""One split of one source on disk: raw tokens in files of bounded size, and `meta.json`.

The files `tokens-00000.bin`, ... hold one stream `[eot] document [eot] document ... [eot]` of little-endian uint16, or
uint32 where the vocabulary has more than 65,536 ids. They are read through memory maps.
"""

import bisect
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SHARD_BYTES = 2**28
BLOCK = 2**20  # tokens of a sequential read


def dtype_for(V: int) -> np.dtype:
    """The smallest of the two dtypes of shards that holds every id below V."""
    return np.dtype("<u2" if V <= 2**16 else "<u4")


class ShardWriter:
    """Appends tokens to the files of a folder; `close` writes `meta.json`."""

    def __init__(self, folder: Path, dtype: np.dtype) -> None:
        folder.mkdir()
        self._folder, self._dtype = folder, dtype
        self._shards: list[dict[str, Any]] = []
        self._file = None
        self._room = 0
        self.documents = self.bytes = self.tokens = 0

    def write(self, tokens: np.ndarray) -> None:
        """Appends a flat array of ids."""
        data = memoryview(tokens.astype(self._dtype).tobytes())
        self.tokens += len(tokens)
        while data:
            if not self._room:
                self._next()
            part, data = data[: self._room], data[self._room :]
            assert self._file is not None
            self._file.write(part)
            self._content.update(part)
            self._room -= len(part)

    def _next(self) -> None:
        self._finish()
        self._room = SHARD_BYTES // self._dtype.itemsize * self._dtype.itemsize
        name = f"tokens-{len(self._shards):05d}.bin"
        self._shards.append({"file": name, "bytes": 0, "digest": ""})
        self._content = hashlib.blake2b(digest_size=16)
        self._file = open(self._folder / name, "wb")  # noqa: SIM115 - closed by _finish

    def _finish(self) -> None:
        if self._file is not None:
            self._shards[-1].update(bytes=self._file.tell(), digest=self._content.hexdigest())
            self._file.close()
            self._file = None

    def close(self) -> None:
        self._finish()
        meta = {
            "tokens": self.tokens,
            "documents": self.documents,
            "bytes": self.bytes,
            "dtype": self._dtype.name,
            "shards": self._shards,
        }
        meta["digest"] = _digest(meta)
        (self._folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")

    def abandon(self) -> None:
        """Closes the open file of a build that failed."""
        if self._file is not None:
            self._file.close()


class Shards:
    """The token stream of a folder that a `ShardWriter` filled.

    Attributes:
        tokens, documents, bytes: of the split; `bytes` are of UTF-8 text, separators not counted.
        digest: of the counts and of every shard's contents.
    """

    def __init__(self, folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        self.folder, self.meta = folder, meta
        self.tokens: int = meta["tokens"]
        self.documents: int = meta["documents"]
        self.bytes: int = meta["bytes"]
        self.digest: str = meta["digest"]
        self.dtype = np.dtype(meta["dtype"]).newbyteorder("<")
        sizes = [shard["bytes"] // self.dtype.itemsize for shard in meta["shards"]]
        self._starts = [0, *itertools.accumulate(sizes)]
        self._maps: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # the maps are opened where they are used

    def _map(self, shard: int) -> np.ndarray:
        if shard not in self._maps:
            path = self.folder / self.meta["shards"][shard]["file"]
            self._maps[shard] = np.asarray(np.memmap(path, self.dtype, mode="r"))  # a plain view: slices faster
        return self._maps[shard]

    def window(self, start: int, length: int) -> np.ndarray:
        """The tokens from `start` on: `length` of them, or what is left."""
        shard = bisect.bisect_right(self._starts, start) - 1
        parts = []
        while length > 0 and shard < len(self._starts) - 1:
            at = start - self._starts[shard]
            part = self._map(shard)[at : at + length]
            if len(part) == length and not parts:
                return part
            parts.append(part)
            start, length, shard = start + len(part), length - len(part), shard + 1
        return np.concatenate([np.empty(0, self.dtype), *parts])

    def blocks(self) -> Iterator[np.ndarray]:
        """The whole stream in order, a bounded array at a time."""
        for start in range(0, self.tokens, BLOCK):
            yield self.window(start, BLOCK)


def intact(folder: Path, deep: bool = False) -> bool:
    """Whether the folder is a whole split: counts and sizes agree, and with `deep` every byte is as it was written."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        expected = meta.pop("digest")
        if _digest(meta) != expected:
            return False
        for shard in meta["shards"]:
            path = folder / shard["file"]
            if path.stat().st_size != shard["bytes"]:
                return False
            if deep:
                with open(path, "rb") as file:
                    if hashlib.file_digest(file, _blake2b).hexdigest() != shard["digest"]:
                        return False
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # absent, unreadable, or not such a file
        return False
    return True


def _blake2b() -> Any:
    return hashlib.blake2b(digest_size=16)


def _digest(meta: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(meta, sort_keys=True).encode(), digest_size=16).hexdigest()
