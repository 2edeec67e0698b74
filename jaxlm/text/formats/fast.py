"""A `tokenizer.json` opened by Hugging Face's `tokenizers` library: everybody's models, at full speed."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxlm import arguments
from jaxlm.errors import UserError
from jaxlm.files import write_file
from jaxlm.paths import expand
from jaxlm.text.base import Encoding, Tokenizer, utf8
from jaxlm.text.formats import layout
from jaxlm.text.formats.decoders import pieces, spelled_for
from jaxlm.text.formats.fast_files import check, spread, untrimmed
from jaxlm.text.formats.layout import Json
from jaxlm.text.formats.library import Library, translated
from jaxlm.text.settings import Settings


class FastTokenizer(Tokenizer):
    """A `tokenizer.json`, as its bytes or as a dictionary; `settings` give special tokens their roles, `name` stands in
    error messages.

    Encoding and decoding are the library's own, special tokens spelled in a text included. Two things differ in
    decoding: an added token is always its own text, where the library takes one of Latin letters for bytes; and
    `skip_special` leaves out all special tokens, those that the library normalises included. A length limit or padding
    stored in the file is not applied: no text is lost.

    Raises:
        UserError: not a tokenizer.json, or a vocabulary with missing or shared ids. Also later, of a text on which the
            file's patterns fail.
    """

    def __init__(self, source: bytes | Json, name: str = "tokenizer.json", settings: Settings = Settings()) -> None:
        self._name = name
        with translated(name, "not a whole tokenizer.json"):
            self._json = layout.to_bytes(source) if isinstance(source, dict) else source
            self.spec = json.loads(self._json)
            check(self.spec, name)
            self._source = self._json
            if late := spread(self.spec, name):  # the library would number them anew
                model = self.spec["model"]
                self.spec = {**self.spec, "model": {**model, "vocab": {**model["vocab"], **late}}}
                self._source = layout.to_bytes(self.spec)
            self._library = Library(self._source, name)
            vocabulary = self._library.vocabulary()
            self.V = 1 + max(vocabulary.values(), default=-1)
            self._tokens: list[str] = [""] * self.V
            for token, i in vocabulary.items():
                self._tokens[i] = token
            added = self.spec.get("added_tokens") or ()
            for token in added:
                self._tokens[token["id"]] = token["content"]  # the library gives its normalised form
            self.specials = {t["id"]: t["content"] for t in added if t["special"]}
            self._joined = spelled_for(self.spec.get("decoder"), self._tokens, [t["id"] for t in added])
            around = self._library.encode("", special=True).ids + self._library.encode("", "", special=True).ids
        if around and max(around) >= self.V:
            raise UserError(f"{name}: the post_processor puts the id {max(around)} around a text, which no token has")
        self.describe(settings)

    @cached_property
    def _pieces(self):
        """How tokens are joined; None where the decoder is not known here and the library has to be asked."""
        return pieces(self.spec.get("decoder"), self._joined)

    @cached_property
    def pieces(self) -> Sequence[bytes]:  # pyright: ignore[reportIncompatibleVariableOverride]
        known = self._pieces.later if self._pieces else [self._library.join([t]).encode() for t in self._joined]
        return [b"" if i in self.specials else piece for i, piece in enumerate(known)]

    @cached_property
    def _literal(self) -> Library:
        """A second instance of the library's tokenizer, for which special tokens are plain text."""
        return Library(self._source, self._name, literal=True)

    @cached_property
    def _whole(self) -> Library:
        """One whose offsets keep the space that a word begins or ends with."""
        post = self.spec.get("post_processor")
        kept = untrimmed(post)
        if kept == post:
            return self._library
        return Library(layout.to_bytes({**self.spec, "post_processor": kept}), self._name)

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.blake2b(b"tokenizers" + self._json, digest_size=16).hexdigest()

    def token(self, i: int) -> str:
        return self._tokens[self.checked_id(i)]

    def id(self, token: str) -> int | None:
        utf8(token)
        return self._library.id(token)

    def encode(self, text: str, special: bool = False, literal: bool = False) -> list[int]:
        try:
            return (self._literal if literal else self._library).encode(text, special=special).ids
        except UserError:
            utf8(text)
            raise

    def encode_batch(self, texts: Sequence[str], special: bool = False, literal: bool = False) -> list[list[int]]:
        try:
            return (self._literal if literal else self._library).encode_batch(texts, special)
        except UserError:
            for text in arguments.texts(texts):
                utf8(text)
            raise

    def encode_plain(self, texts: Sequence[str], literal: bool) -> list[list[int]]:
        return self.encode_batch(texts, literal=literal)

    def encoding(self, text: str, pair: str | None = None, special: bool = False) -> Encoding:
        for given in (text, "" if pair is None else pair):
            utf8(given)
        found = self._library.encode(text, pair, special)
        return Encoding(found.ids, found.tokens, found.offsets, found.type_ids)

    def encode_marked(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        utf8(text)
        found = self._whole.encode(text)
        return found.ids, found.offsets

    def decode(self, ids: Any, skip_special: bool = False) -> str:
        left_out = self.specials if skip_special else ()
        return self._library.join([t for i in self.checked(ids) if i not in left_out and (t := self._joined[i])])

    def parts(self, ids: Any, skip_special: bool, state: Any = None) -> tuple[list[bytes], Any]:
        kept = [i for i in self.checked(ids) if not (skip_special and i in self.specials)]
        if self._pieces:
            return self._pieces.join(kept, state)
        before, done = state or ([], 0)
        before = before + kept
        whole = self.decode(before)  # the library decodes the whole again
        other = self.decode([*before, (before[-1] + 1) % self.V]) if before else ""  # the last token may read otherwise
        stays = next((at for at, (a, b) in enumerate(zip(whole, other)) if a != b), min(len(whole), len(other)))
        sure = max(done, len(whole[:stays].rstrip("\ufffd")))  # or be a part of a character
        return [whole[done:sure].encode()], (before, sure)

    def rest(self, state: Any) -> bytes:
        return b"" if self._pieces or state is None else self.decode(state[0])[state[1] :].encode()

    def decode_bytes(self, ids: Any) -> bytes:
        parts, state = self.parts(ids, skip_special=True)
        return b"".join(parts) + self.rest(state)

    def save(self, folder: str | Path) -> None:
        write_file(expand(folder) / "tokenizer.json", self._json)
        self.save_settings(expand(folder))
