"""Hugging Face's `tokenizers` library, called here and nowhere else: whatever it raises becomes a UserError."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from jaxlm.errors import UserError


@contextlib.contextmanager
def translated(name: str, what: str) -> Iterator[None]:
    """Turns every exception of the library into a UserError: `name` is the file's, `what` says what could not be done.

    A panic of Rust is a BaseException of a class that cannot be imported.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if isinstance(error, UnicodeEncodeError):  # of the file: texts are looked at before
            error = "half a character (a lone surrogate) stands in it: remove it"
        raise UserError(f"{name}: {what}: {' '.join(str(error).split())[:200]}") from None


class Library:
    """The library's tokenizer of a `tokenizer.json`; `literal` takes special tokens for plain text.

    A length limit or padding stored in the file is not applied.
    """

    def __init__(self, source: bytes, name: str, literal: bool = False) -> None:
        from tokenizers import Tokenizer  # kept off the import path of `jaxlm --help`

        self._name = name
        with translated(name, "not a whole tokenizer.json"):
            self._rust = Tokenizer.from_buffer(source)
            self._rust.no_truncation()
            self._rust.no_padding()
            self._rust.encode_special_tokens = literal

    def vocabulary(self) -> dict[str, int]:
        return self._rust.get_vocab(with_added_tokens=True)

    def id(self, token: str) -> int | None:
        return self._rust.token_to_id(token)

    def encode(self, text: str, pair: str | None = None, special: bool = False) -> Any:
        """The library's own encoding, with ids, tokens, offsets and type_ids."""
        with translated(self._name, "the text cannot be encoded"):
            return self._rust.encode(text, pair, add_special_tokens=special)

    def encode_batch(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        with translated(self._name, "a text cannot be encoded"):
            return [encoding.ids for encoding in self._rust.encode_batch_fast(texts, add_special_tokens=special)]

    def join(self, tokens: list[str]) -> str:
        """The text of tokens by their spellings, as the file's decoder says."""
        with translated(self._name, "the tokens cannot be decoded"):
            return self._rust.decoder.decode(tokens) if self._rust.decoder else " ".join(tokens)
