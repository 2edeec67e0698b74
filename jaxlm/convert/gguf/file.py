"""GGUF files: a header of named values, a list of tensors, and their bytes (ggml's docs/gguf.md, versions 2 and 3).

They come from strangers: every length is compared with the file before anything is read by it.
"""

import dataclasses
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from jaxlm.errors import UserError
from jaxlm.files import replacing
from jaxlm.ops.blocks import KINDS

MAGIC = b"GGUF"
ALIGNMENT = 32
SCALARS = dict(enumerate(("<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?", "", "", "<u8", "<i8", "<f8")))
TEXT, LIST = 8, 9
PLAIN = {0: np.dtype("<f4"), 1: np.dtype("<f2"), 30: np.dtype(ml_dtypes.bfloat16)}
NAMED = {"F32": 0, "F16": 1, "BF16": 30} | {name: kind.number for name, kind in KINDS.items()}
NAMES = {number: name for name, number in NAMED.items()}
UNREAD = {16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S", 29: "IQ1_M", 40: "NVFP4"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor in the file: the name of its kind, its shape (rows last but one), and where its bytes are."""

    kind: str
    shape: tuple[int, ...]
    offset: int

    @property
    def row(self) -> int:
        """Bytes of a row."""
        if self.kind in KINDS:
            return self.shape[-1] // KINDS[self.kind].weights * KINDS[self.kind].size
        return self.shape[-1] * PLAIN[NAMED[self.kind]].itemsize

    @property
    def size(self) -> int:
        return math.prod(self.shape[:-1]) * self.row


class GGUF:
    """A file, its values read and its tensors not yet. `metadata` by key; `tensors` by name.

    Raises UserError for a file that is cut short, says more than it has, or holds kinds of blocks that are not known.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._bytes = np.memmap(path, np.uint8, "r")
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from None
        except ValueError:  # of an empty file
            raise UserError(f"{path} is no GGUF file: it is empty") from None
        reader = _Reader(self._bytes, path)
        if bytes(reader.take(len(MAGIC))) != MAGIC:
            raise UserError(f"{path} is no GGUF file")
        version = reader.number("<u4")
        if version not in (2, 3):
            raise UserError(f"{path} is of GGUF version {version}: 2 and 3 are read")
        tensors, values = reader.number("<u8"), reader.number("<u8")
        self.metadata: dict[str, Any] = {}
        for _ in range(values):
            key = reader.text()
            self.metadata[key] = reader.value(reader.number("<u4"))
        found = [reader.entry() for _ in range(tensors)]
        align = self.metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(align, int) or align < 1:
            raise reader.damaged(f"general.alignment is {align!r}")
        start = -(-reader.at // align) * align
        self.tensors = {name: dataclasses.replace(entry, offset=start + entry.offset) for name, entry in found}
        for name, entry in self.tensors.items():
            if entry.offset + entry.size > len(self._bytes):
                raise reader.damaged(f"{name} ends at byte {entry.offset + entry.size:,}")

    def read(self, name: str) -> np.ndarray:
        """The tensor as it lies: plain numbers of its shape, or rows of blocks, uint8 (..., bytes)."""
        entry = self.tensors[name]
        raw = self._bytes[entry.offset : entry.offset + entry.size]
        if entry.kind in KINDS:
            return np.asarray(raw.reshape(*entry.shape[:-1], entry.row))
        return np.asarray(raw.view(PLAIN[NAMED[entry.kind]]).reshape(entry.shape))


class _Reader:
    """Takes one thing after the other, never beyond the end."""

    def __init__(self, data: np.ndarray, path: Path):
        self.data, self.path, self.at = data, path, 0

    def damaged(self, why: str) -> UserError:
        return UserError(f"{self.path} is damaged or cut short: {why}, the file has {len(self.data):,} bytes")

    def take(self, n: int) -> memoryview:
        if self.at + n > len(self.data):
            raise self.damaged(f"{n:,} bytes at {self.at:,} are wanted")
        self.at += n
        return self.data[self.at - n : self.at].data

    def number(self, dtype: str) -> Any:
        found = np.frombuffer(self.take(np.dtype(dtype).itemsize), dtype)[0]
        return float(str(found)) if dtype == "<f4" else found.item()  # 1e-6 as it was meant

    def text(self) -> str:
        return bytes(self.take(self.number("<u8"))).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == TEXT:
            return self.text()
        if kind == LIST:
            of, n = self.number("<u4"), self.number("<u8")
            if of in (TEXT, LIST):
                if n > len(self.data) - self.at:
                    raise self.damaged(f"a list of {n:,}")
                return [self.value(of) for _ in range(n)]
            dtype = self._scalar(of)
            return np.frombuffer(self.take(n * np.dtype(dtype).itemsize), dtype).tolist()
        return self.number(self._scalar(kind))

    def _scalar(self, kind: int) -> str:
        if not SCALARS.get(kind):
            raise self.damaged(f"a value of kind {kind}")
        return SCALARS[kind]

    def entry(self) -> tuple[str, Entry]:
        name, dimensions = self.text(), self.number("<u4")
        if not 1 <= dimensions <= 4:
            raise self.damaged(f"{name[:60]} has {dimensions} dimensions")
        shape = tuple(self.number("<u8") for _ in range(dimensions))[::-1]
        number, offset = self.number("<u4"), self.number("<u8")
        if number not in NAMES:
            known = ", ".join(NAMED)
            raise UserError(f"{self.path}: {name} is of kind {UNREAD.get(number, number)}, and {known} are read")
        entry = Entry(NAMES[number], shape, offset)
        if entry.kind in KINDS and shape[-1] % KINDS[entry.kind].weights:
            raise self.damaged(f"rows of {name[:60]} have {shape[-1]} weights, no whole blocks of {entry.kind}")
        return name, entry


# Writing -------------------------------------------------------------------------------------------------------------


def write(path: Path, metadata: Mapping[str, Any], tensors: Iterable[tuple[str, Entry, np.ndarray]]) -> None:
    """Writes a file of version 3 under a temporary name, then renames it. Entries as `GGUF.tensors` has them, offsets
    aside; arrays as `GGUF.read` gives them."""
    tensors, offset = list(tensors), 0
    with replacing(path) as file:
        file.write(MAGIC + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
        for key, value in metadata.items():
            _put_text(file, key)
            _put_value(file, value)
        for name, entry, _ in tensors:
            _put_text(file, name)
            shape = entry.shape[::-1]
            file.write(struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, NAMED[entry.kind], offset))
            offset += -(-entry.size // ALIGNMENT) * ALIGNMENT
        for _, _, array in tensors:
            file.write(b"\0" * (-file.tell() % ALIGNMENT))
            file.write(np.ascontiguousarray(array).tobytes())
        file.write(b"\0" * (-file.tell() % ALIGNMENT))


def _put_text(file: BinaryIO, text: str) -> None:
    data = text.encode()
    file.write(struct.pack("<Q", len(data)) + data)


def _put_value(file: BinaryIO, value: Any) -> None:
    if isinstance(value, str):
        file.write(struct.pack("<I", TEXT))
        _put_text(file, value)
    elif isinstance(value, list):
        if value and isinstance(value[0], str):
            file.write(struct.pack("<IIQ", LIST, TEXT, len(value)))
            for text in value:
                _put_text(file, text)
        else:
            code, form = _scalar(value[0] if value else 0)
            file.write(struct.pack("<IIQ", LIST, code, len(value)) + struct.pack(f"<{len(value)}{form}", *value))
    else:
        code, form = _scalar(value)
        file.write(struct.pack(f"<I{form}", code, value))


def _scalar(value: Any) -> tuple[int, str]:
    """A number's kind, and how struct spells it."""
    if isinstance(value, bool):
        return 7, "?"
    return (6, "f") if isinstance(value, float) else (4, "I") if value >= 0 else (5, "i")
