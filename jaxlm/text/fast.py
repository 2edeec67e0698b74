"""A `tokenizer.json` opened by Hugging Face's `tokenizers` library: everybody's models, at full speed."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxlm.errors import UserError
from jaxlm.paths import expand
from jaxlm.text import layout
from jaxlm.text.base import Encoding, Tokenizer, utf8
from jaxlm.text.decoders import pieces
from jaxlm.text.files import write_file
from jaxlm.text.layout import Json
from jaxlm.text.settings import Settings


class FastTokenizer(Tokenizer):
    """A `tokenizer.json`, as its bytes or as a dictionary; `settings` give special tokens their roles, `name` stands in
    error messages.

    Encoding and decoding are the library's own, special tokens spelled in a text included. A length limit or padding
    stored in the file is not applied: no text is lost.

    Raises:
        UserError: not a tokenizer.json, or a vocabulary with missing or shared ids.
    """

    def __init__(self, source: bytes | Json, name: str = "tokenizer.json", settings: Settings = Settings()) -> None:
        from tokenizers import Tokenizer as Library  # kept off the import path of `jaxlm --help`

        if isinstance(source, dict):
            source = layout.to_bytes(source)
        self._json = source
        try:
            self.spec = json.loads(source)
            if spread := _spread(self.spec, name):  # the library would number them anew
                model = self.spec["model"]
                self.spec = {**self.spec, "model": {**model, "vocab": {**model["vocab"], **spread}}}
                source = layout.to_bytes(self.spec)
            self._library = Library.from_buffer(source)
            self._source = source
        except UserError:
            raise
        except Exception as error:  # the library raises plain exceptions
            raise UserError(f"{name}: not a whole tokenizer.json: {str(error)[:200]}") from None
        self._library.no_truncation()
        self._library.no_padding()
        vocabulary = self._library.get_vocab(with_added_tokens=True)
        self.V = 1 + max(vocabulary.values(), default=-1)
        self._tokens = [""] * self.V
        for token, i in vocabulary.items():
            self._tokens[i] = token
        self.specials = {t["id"]: t["content"] for t in self.spec.get("added_tokens") or () if t["special"]}
        self.describe(settings)

    @cached_property
    def _pieces(self):
        """How tokens are joined; None where the decoder is not known here and the library has to be asked."""
        return pieces(self.spec.get("decoder"), self._tokens)

    @cached_property
    def pieces(self) -> Sequence[bytes]:  # pyright: ignore[reportIncompatibleVariableOverride]
        known = self._pieces.later if self._pieces else [self._library.decode([i]).encode() for i in range(self.V)]
        return [b"" if i in self.specials else piece for i, piece in enumerate(known)]

    @cached_property
    def _literal(self):
        """A second instance of the library's tokenizer, for which special tokens are plain text."""
        literal = type(self._library).from_buffer(self._source)
        literal.no_truncation()
        literal.no_padding()
        literal.encode_special_tokens = True
        return literal

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.blake2b(b"tokenizers" + self._json, digest_size=16).hexdigest()

    def token(self, i: int) -> str:
        return self._tokens[i]

    def id(self, token: str) -> int | None:
        return self._library.token_to_id(token)

    def encode(self, text: str, special: bool = False, literal: bool = False) -> list[int]:
        library = self._literal if literal else self._library
        try:
            return library.encode(text, add_special_tokens=special).ids
        except (TypeError, UnicodeEncodeError):
            utf8(text)
            raise

    def encode_batch(self, texts: Sequence[str], special: bool = False, literal: bool = False) -> list[list[int]]:
        library = self._literal if literal else self._library
        try:
            return [encoding.ids for encoding in library.encode_batch_fast(texts, add_special_tokens=special)]
        except (TypeError, UnicodeEncodeError):
            for text in texts:
                utf8(text)
            raise

    def encode_plain(self, texts: Sequence[str], literal: bool) -> list[list[int]]:
        return self.encode_batch(texts, literal=literal)

    def encoding(self, text: str, pair: str | None = None, special: bool = False) -> Encoding:
        for given in (text, pair or ""):
            utf8(given)
        found = self._library.encode(text, pair, add_special_tokens=special)
        return Encoding(found.ids, found.tokens, found.offsets, found.type_ids)

    def encode_marked(self, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
        found = self.encoding(text)
        return found.ids, found.offsets

    def decode(self, ids: Any, skip_special: bool = False) -> str:
        return self._library.decode(self.checked(ids), skip_special_tokens=skip_special)

    def parts(self, ids: Any, skip_special: bool, state: Any = None) -> tuple[list[bytes], Any]:
        kept = [i for i in self.checked(ids) if not (skip_special and i in self.specials)]
        if self._pieces:
            return self._pieces.join(kept, state)
        before, text = state or ([], "")  # the library decodes the whole again
        whole = self._library.decode(before + kept, skip_special_tokens=False)
        return [whole[len(text) :].encode()], (before + kept, whole)

    def save(self, folder: str | Path) -> None:
        write_file(expand(folder) / "tokenizer.json", self._json)
        self.save_settings(expand(folder))


def _spread(spec: Json, name: str) -> dict[str, int]:
    """The added tokens when their ids leave a gap (reserved ones); UserError where ids are missing or shared."""
    vocab, owner = layout.vocabulary(spec), {}
    added = {token["content"]: token["id"] for token in spec.get("added_tokens") or ()}
    for token, i in [*vocab.items(), *added.items()]:
        if vocab.get(token, i) != i:
            raise UserError(f"{name}: the token {token!r} has two ids, {vocab[token]} and {i}: keep one")
        if owner.setdefault(i, token) != token:
            raise UserError(f"{name}: tokens {owner[i]!r} and {token!r} share the id {i}: give each its own")
    last = max((i for token, i in vocab.items() if token not in added), default=-1)
    missing = next((i for i in range(last) if i not in owner), None)
    if missing is not None:
        raise UserError(f"{name}: no token has the id {missing}: number the vocabulary without gaps")
    late = {token: i for token, i in added.items() if token not in vocab}
    return {} if sorted(late.values()) == [*range(len(vocab), len(vocab) + len(late))] else late
