"""What every tokenizer has in common: a table of bytes, one separator, and decoding by joining the table."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.errors import UserError

EOT = "<|endoftext|>"


class Tokenizer(ABC):
    """Text to token ids and back.

    A subclass sets `V` (vocabulary size, special tokens included), `eot` (the id of the one document separator, which
    also begins a text), `pieces` (the bytes of each id, empty for special tokens) and `specials` (id to spelling), and
    says how to encode. Text never becomes a special token: `encode("<|endoftext|>")` spells it out in ordinary ids.
    """

    V: int
    eot: int
    pieces: Sequence[bytes]
    specials: dict[int, str]
    spaced: frozenset[int] = frozenset()  # ids that lose one leading space at the beginning of a decoded text
    strip_all: bool = False  # whether the ids after a stripped one that left nothing are stripped too

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A short hash that is equal exactly when two tokenizers encode and decode alike."""

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without `eot`. Much faster than one `encode` for each.

        Raises:
            UserError: a text holds a lone surrogate, which is not a Unicode character and has no UTF-8 form.
        """

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Writes what `load_tokenizer(folder)` needs; the folder is made if absent."""

    def encode(self, text: str, special: bool = False) -> list[int]:
        """The ids of one text; `special` puts `eot` first. See `encode_batch` for the errors."""
        ids = self.encode_batch([text])[0]
        return [self.eot, *ids] if special else ids

    def encode_arrays(self, texts: Sequence[str], dtype: Any = np.uint32) -> list[np.ndarray]:
        """As `encode_batch`, as numpy arrays of `dtype`, for writing to disk."""
        return [np.array(ids, dtype=dtype) for ids in self.encode_batch(texts)]

    def decode(self, ids: Any, skip_special: bool = False) -> str:
        """The text of a list or array of ids. Special tokens are spelled out, or left out with `skip_special`.

        Bytes that are not UTF-8, as a model can produce them, become U+FFFD.

        Raises:
            UserError: an id is outside [0, V), or the ids are not a list of integers.
        """
        return b"".join(self.parts(ids, skip_special)[0]).decode("utf-8", "replace")

    def decode_bytes(self, ids: Any) -> bytes:
        """The exact bytes of a list or array of ids; special tokens contribute none. Errors as in `decode`."""
        return b"".join(self.parts(ids, skip_special=True)[0])

    def parts(self, ids: Any, skip_special: bool, fresh: bool = True) -> tuple[list[bytes], bool]:
        """The bytes of each id, and whether a text that began `fresh` still has nothing but special tokens."""
        ids = self._checked(ids)
        parts = [self.pieces[i] for i in ids]
        if fresh:
            fresh = self._strip(ids, parts)
        if not skip_special:
            for at, i in enumerate(ids):
                if i in self.specials:
                    parts[at] = self.specials[i].encode()
        return parts, fresh

    def _strip(self, ids: list[int], parts: list[bytes]) -> bool:
        for at, i in enumerate(ids):
            if not parts[at]:
                continue
            if i not in self.spaced:
                return False
            parts[at] = parts[at][1:]
            if parts[at] or not self.strip_all:
                return False
        return True

    def _checked(self, ids: Any) -> list[int]:
        array = np.asarray(ids)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise UserError(f"token ids must be one flat list of integers, got shape {array.shape} of {array.dtype}")
        if array.size and (array.min() < 0 or array.max() >= self.V):
            bad = array[(array < 0) | (array >= self.V)][0]
            raise UserError(f"token id {bad} is outside this tokenizer's vocabulary of {self.V}")
        return array.tolist()


def utf8(text: str) -> bytes:
    """The text's UTF-8 bytes; a lone surrogate is the user's mistake and is named."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        code, at = ord(text[error.start]), error.start
        raise UserError(f"the text holds a lone surrogate U+{code:04X} at character {at}: remove it") from None


def write_file(path: Path, data: bytes) -> None:
    """Writes a whole file under a temporary name in the same folder and renames it. Raises UserError if it cannot."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
