"""What the readable tokenizers share: plain Python that a student can follow, and a `tokenizer.json` to ship.

    text -> special tokens and the text between -> words -> pieces -> ids

A subclass says how a text is cut into words and how one word becomes ids; the rest is here. What it saves, the fast
library opens with identical ids.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from jaxlm.errors import UserError
from jaxlm.files import write_file
from jaxlm.paths import expand
from jaxlm.text.base import Encoding, Tokenizer, split_at, utf8
from jaxlm.text.formats import layout
from jaxlm.text.formats.decoders import pieces
from jaxlm.text.formats.layout import Json

REMEMBERED = 1 << 20  # words whose ids are kept


class ReadableTokenizer(Tokenizer):
    """A vocabulary and the words of a text.

    Attributes:
        vocab: the vocabulary's own spelling of each token to its id, special tokens included. Ids are below V.
    """

    vocab: dict[str, int]

    def _own(self, vocab: dict[str, int], pieces: Sequence[bytes], specials: Sequence[str]) -> None:
        """Sets what `Tokenizer` promises. `pieces` in the order of ids; `specials` are spelled as in `vocab`."""
        self.vocab = vocab
        self.V = len(pieces)
        self.pieces = pieces
        self.specials = {vocab[spelling]: spelling for spelling in specials}
        self._special_ids = {spelling: vocab[spelling] for spelling in specials}
        self._spelled = [""] * self.V
        for spelling, i in vocab.items():
            self._spelled[i] = spelling
        self._known: dict[str, list[int]] = {}

    @abstractmethod
    def words(self, text: str) -> list[str]:
        """The words of a text without special tokens, after normalising."""

    @abstractmethod
    def encode_word(self, word: str) -> list[int]:
        """The ids of one word: the algorithm itself."""

    @abstractmethod
    def to_json(self) -> Json:
        """The same tokenizer as a `tokenizer.json`."""

    def encode_plain(self, texts: Sequence[str], literal: bool) -> list[list[int]]:
        return [self._encode(text, literal) for text in texts]

    def _encode(self, text: str, literal: bool) -> list[int]:
        utf8(text)  # refuses lone surrogates
        ids: list[int] = []
        for part, special in self.marked(text, literal):
            if special is not None:
                ids.append(special)
                continue
            words, known = self.words(part), self._known
            table = {word: known.get(word) or self._remembered(word) for word in set(words)}
            ids += chain.from_iterable(map(table.__getitem__, words))
        return ids

    def marked(self, text: str, literal: bool) -> Iterable[tuple[str, int | None]]:
        """The text in parts, each with the id of the token it spells as a whole, or None where words begin."""
        return split_at(text, {} if literal else self._special_ids)

    def _remembered(self, word: str) -> list[int]:
        ids = self.encode_word(word)
        if len(self._known) < REMEMBERED and len(word) < 100:
            self._known[word] = ids
        return ids

    def encoding(self, text: str, pair: str | None = None, special: bool = False) -> Encoding:
        """As in `Tokenizer`; a second text follows as `layout.around` says, its tokens of type 1."""
        if pair is None:
            return super().encoding(text, None, special)
        first, second = super().encoding(text, None, special), super().encoding(pair, None, special)
        if special and self.suffix:  # which divides the two; otherwise the prefix is needed again
            at = len(self.prefix)
            second = Encoding(second.ids[at:], second.tokens[at:], second.offsets and second.offsets[at:], [])
        offsets = None if first.offsets is None or second.offsets is None else first.offsets + second.offsets
        types = [0] * len(first.ids) + [1] * len(second.ids)
        return Encoding(first.ids + second.ids, first.tokens + second.tokens, offsets, types)

    def token(self, i: int) -> str:
        return self._spelled[self.checked_id(i)]

    @property
    def fingerprint(self) -> str:
        """That of the fast tokenizer which its file gives."""
        return hashlib.blake2b(b"tokenizers" + layout.to_bytes(self.to_json()), digest_size=16).hexdigest()

    def save(self, folder: str | Path) -> None:
        write_file(expand(folder) / "tokenizer.json", layout.to_bytes(self.to_json()))
        self.save_settings(expand(folder))


class JoinedTokenizer(ReadableTokenizer):
    """A readable tokenizer whose tokens are joined as the `decoder` of a `tokenizer.json` says."""

    def _own_joined(self, vocab: dict[str, int], decoder: Json | None, specials: Sequence[str]) -> None:
        """As `_own`, with the pieces that this decoder gives. UserError for one that has no readable form."""
        joined = pieces(decoder, list(vocab))
        if joined is None:
            raise UserError("the decoder has no readable form here: open the tokenizer.json with FastTokenizer")
        self._joined = joined
        self._own(vocab, [b"" if token in specials else piece for token, piece in zip(vocab, joined.later)], specials)

    def parts(self, ids: Any, skip_special: bool, state: Any = None) -> tuple[list[bytes], Any]:
        return self._joined.join([i for i in self.checked(ids) if not (skip_special and i in self.specials)], state)
