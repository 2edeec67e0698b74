"""Decoding while tokens arrive, for a terminal."""

import codecs
from typing import Any

from jaxlm.text.base import Tokenizer


class TextStream:
    """Text from tokens as they are generated.

    A character may span several tokens: its bytes are held back until it is whole, so what is pushed out is always
    valid text. The pushes and the final `flush` join to exactly `tokenizer.decode(all ids, skip_special)`, but for
    bytes that are no characters, where a library may put other U+FFFD. A push costs time in its own tokens only.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._start()

    def _start(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._state = None

    def push(self, ids: Any) -> str:
        """The text that became complete with these ids (a list or array; errors as in `Tokenizer.decode`)."""
        parts, self._state = self._tokenizer.parts(ids, self._skip_special, self._state)
        return self._decoder.decode(b"".join(parts))

    def flush(self) -> str:
        """What is left, a character cut short as U+FFFD; afterwards the stream begins a new text."""
        rest = self._decoder.decode(self._tokenizer.rest(self._state), final=True)
        self._start()
        return rest
