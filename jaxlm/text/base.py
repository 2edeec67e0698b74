"""What every tokenizer has in common: a table of bytes, special tokens, and the way from text to ids and back."""

import dataclasses
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm import arguments
from jaxlm.errors import UserError
from jaxlm.text.settings import ROLES, SPELLINGS, Settings

EOT = "<|endoftext|>"


@dataclass(frozen=True)
class Encoding:
    """One text, or two together, as tokens: lists of equal length.

    Attributes:
        ids: token ids.
        tokens: the vocabulary's own spelling of each id, such as "Ġthe" or "##ing"; some libraries give the text itself
            of what is unknown.
        offsets: (start, stop) of each token in its text, in characters, (0, 0) for added special tokens. A token that
            is part of a character has the span of that character. None where the tokenizer does not know.
        types: 0 for tokens of the first text, 1 for those of the second, as the tokenizer's post-processing sets them.
    """

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]] | None
    types: list[int]


class Tokenizer(ABC):
    """Text to token ids and back.

    Attributes:
        V: vocabulary size, special tokens included: ids are below it.
        pieces: the bytes that each id stands for inside a text, empty for special tokens.
        specials: id to spelling of the special tokens, which decoding can leave out.
        bos, eos, pad, unk: ids of the special tokens with these roles, None where there is none.
        stops: the ids that end a generated text.
        prefix, suffix: the ids that `special` puts around a text.
        settings: what the files beside the vocabulary said.
    """

    V: int
    pieces: Sequence[bytes]
    specials: dict[int, str]
    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    unk: int | None = None
    stops: tuple[int, ...] = ()
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    settings: Settings = Settings()

    @property
    def eot(self) -> int:
        """The id that separates documents and begins a text: `bos`, else `eos`. UserError where there is neither."""
        eot = self.eos if self.bos is None else self.bos
        if eot is None:
            raise UserError("this tokenizer has neither a bos nor an eos token to separate documents: use another one")
        return eot

    def describe(self, settings: Settings) -> None:
        """Takes the roles of special tokens and the stops from the files beside the vocabulary."""
        self.settings = settings
        named = {role: token["content"] for role, token in settings.roles.items() if role in ROLES}
        if not named:
            spelled = set(self.specials.values())
            named = {role: next((s for s in usual if s in spelled), None) for role, usual in SPELLINGS.items()}
        for role, spelling in named.items():
            if spelling is not None and (i := self.id(spelling)) is not None:
                setattr(self, role, i)
        # A bos begins the next text.
        ends = dict.fromkeys(i for i in (self.eos, self.bos, *self.stops) if i is not None)
        self.stops = settings.stops or tuple(ends)

    def save_settings(self, folder: Path) -> None:
        """Writes the files beside the vocabulary; roles of special tokens that no file has told are told in one."""
        settings = self.settings
        if not settings.config:
            ids = {role: getattr(self, role) for role in ROLES}
            roles = {f"{role}_token": self.specials[i] for role, i in ids.items() if i in self.specials}
            settings = dataclasses.replace(settings, config={"tokenizer_class": "PreTrainedTokenizerFast", **roles})
        settings.save(folder)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A short hash that is equal exactly when two tokenizers encode and decode alike."""

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Writes what `load_tokenizer(folder)` needs; the folder is made if absent."""

    @abstractmethod
    def token(self, i: int) -> str:
        """The vocabulary's own spelling of an id, such as "Ġthe", "##ing", "▁the" or "<0x0A>"."""

    @abstractmethod
    def encode_plain(self, texts: Sequence[str], literal: bool) -> list[list[int]]:
        """The ids of each text without what `special` adds. `literal` and the errors are those of `encode_batch`."""

    def encode_batch(self, texts: Sequence[str], special: bool = False, literal: bool = False) -> list[list[int]]:
        """The ids of each text; much faster than one `encode` for each.

        `special` adds the special tokens that this tokenizer puts around a text. Special tokens spelled in the text
        become what the tokenizer's own library makes of them: ids with a `tokenizer.json`, plain text otherwise; with
        `literal` they are plain text always.

        Raises:
            UserError: a text holds a lone surrogate, which is not a Unicode character and has no UTF-8 form.
        """
        plain = self.encode_plain(arguments.texts(texts), literal)
        return [[*self.prefix, *ids, *self.suffix] for ids in plain] if special else plain

    def id(self, token: str) -> int | None:
        """The id with this spelling in the vocabulary; None where there is none."""
        arguments.text(token, "a token's spelling")
        return next((i for i in range(self.V) if self.token(i) == token), None)

    def spell(self, i: int) -> str:
        """How a token reads inside a text, its spaces included; bytes that are no whole character as \\xe2."""
        i = self.checked_id(i)
        return self.specials.get(i) or self.pieces[i].decode("utf-8", "backslashreplace")

    def encode(self, text: str, special: bool = False, literal: bool = False) -> list[int]:
        """The ids of one text; see `encode_batch`."""
        return self.encode_batch([arguments.text(text, "a text to encode")], special, literal)[0]

    def encode_prompt(self, text: str) -> list[int]:
        """The ids of a text to be continued: as `encode` with `special`, but for a text that already begins with the
        special token which that puts first, as chat templates write it; that one has its ids by `encode_marked`."""
        first = self.encode("", special=True)[:1]
        spelled = self.specials.get(first[0]) if first else None
        return self.encode_marked(text)[0] if spelled and text.startswith(spelled) else self.encode(text, special=True)

    def encode_arrays(self, texts: Sequence[str], dtype: Any = np.uint32) -> list[np.ndarray]:
        """As `encode_batch` with `literal`, as numpy arrays of `dtype`, for writing to disk."""
        return [np.array(ids, dtype=dtype) for ids in self.encode_plain(arguments.texts(texts), literal=True)]

    def encoding(self, text: str, pair: str | None = None, special: bool = False) -> Encoding:
        """A text, and a second one where the tokenizer can join two, with spellings and offsets; see `Encoding`."""
        if pair is not None:
            raise UserError("this tokenizer does not join two texts: encode them one by one")
        ids = self.encode(text)
        tokens, offsets = self._spellings(text, ids), self._offsets(text, ids)
        if special:
            before, after = ([self.token(i) for i in around] for around in (self.prefix, self.suffix))
            ids, tokens = [*self.prefix, *ids, *self.suffix], [*before, *tokens, *after]
            if offsets is not None:
                offsets = [*[(0, 0)] * len(before), *offsets, *[(0, 0)] * len(after)]
        return Encoding(ids, tokens, offsets, [0] * len(ids))

    def _spellings(self, text: str, ids: list[int]) -> list[str]:
        return [self.token(i) for i in ids]

    def encode_marked(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        """The ids and offsets of a text in which all special tokens are found, whatever the library does."""
        utf8(text)
        ids: list[int] = []
        offsets: list[tuple[int, int]] | None = []
        at = 0
        for part, i in split_at(text, self._findable()):
            found = self._between(part, at == 0) if i is None else [i]
            spans = self._offsets(part, found, at == 0) if i is None else [(0, len(part))]
            offsets = None if offsets is None or spans is None else offsets + [(a + at, b + at) for a, b in spans]
            ids += found
            at += len(part)
        return ids, offsets

    def _findable(self) -> dict[str, int]:
        """The spellings that become one id in a text, whatever the library does."""
        return {spelling: i for i, spelling in self.specials.items()}

    def _between(self, text: str, first: bool) -> list[int]:
        """The ids of the text between two marks; `first` where none stands before it."""
        return self.encode(text, literal=True)

    def _offsets(self, text: str, ids: list[int], first: bool = True) -> list[tuple[int, int]] | None:
        """Offsets by the lengths of the pieces; None when they do not spell the text. `first` as in `_between`."""
        parts, _ = self.parts(ids, skip_special=False)
        if b"".join(parts) != (data := text.encode()):
            return None
        begins = np.frombuffer(data, np.uint8) & 0xC0 != 0x80  # the first byte of each character
        begun = np.concatenate([[0], np.cumsum(begins), [0]])  # characters begun before each byte
        stops = np.cumsum([0, *map(len, parts)])
        return [(int(begun[a + 1]) - 1, int(begun[b])) if a < b else (0, 0) for a, b in zip(stops, stops[1:])]

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

    def parts(self, ids: Any, skip_special: bool, state: Any = None) -> tuple[list[bytes], Any]:
        """The bytes of each id in a text, and the state to give with the ids that follow (None begins a text).

        Some may be held back until they are sure: `rest` has them at the end.
        """
        ids = self.checked(ids)
        parts = [self.pieces[i] for i in ids]
        if not skip_special:
            for at, i in enumerate(ids):
                if i in self.specials:
                    parts[at] = self.specials[i].encode()
        return parts, None

    def rest(self, state: Any) -> bytes:
        """What `parts` has held back, when no more ids follow."""
        return b""

    def checked_id(self, i: Any) -> int:
        """The id; UserError for what is no integer, or not below V."""
        if type(i) is not int:
            i = arguments.integer(i, "a token id")
        if not 0 <= i < self.V:
            raise UserError(f"token id {i} is outside this tokenizer's vocabulary of {self.V}")
        return i

    def checked(self, ids: Any) -> list[int]:
        """The ids as a list; UserError for what is not a flat list of ids below V."""
        try:
            array = np.asarray(ids)
        except (TypeError, ValueError, OverflowError):
            raise UserError("token ids must be one flat list of integers") from None
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise UserError(f"token ids must be one flat list of integers, got shape {array.shape} of {array.dtype}")
        if array.size and (array.min() < 0 or array.max() >= self.V):
            bad = array[(array < 0) | (array >= self.V)][0]
            raise UserError(f"token id {bad} is outside this tokenizer's vocabulary of {self.V}")
        return array.tolist()

    @cached_property
    def byte_lengths_V(self) -> np.ndarray:
        """The number of bytes each id stands for, int32 (V,), for bits per byte; 0 for special tokens."""
        return np.array([len(piece) for piece in self.pieces], np.int32)


def split_at(text: str, ids: Mapping[str, int]) -> Iterator[tuple[str, int | None]]:
    """The text in parts: each spelling in `ids` with its id, what lies between with None. The longest spelling wins."""
    for part in _any_of(tuple(ids)).split(text) if ids else [text]:
        if part:
            yield part, ids.get(part)


@lru_cache(maxsize=256)
def _any_of(spellings: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(f"({'|'.join(map(re.escape, sorted(spellings, key=len, reverse=True)))})")


def utf8(text: str) -> bytes:
    """The text's UTF-8 bytes; a lone surrogate, or what is no text, is the user's mistake and is named."""
    if not isinstance(text, str):
        raise UserError(f"a text is a string, not a {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        code, at = ord(text[error.start]), error.start
        raise UserError(f"the text holds a lone surrogate U+{code:04X} at character {at}: remove it") from None
