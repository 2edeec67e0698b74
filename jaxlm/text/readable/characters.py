"""The smallest tokenizer that still reads like text: every character is a token."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from jaxlm.errors import UserError
from jaxlm.text.base import EOT
from jaxlm.text.formats.layout import Json
from jaxlm.text.readable.word_level import UNK, WordLevelTokenizer


class CharacterTokenizer(WordLevelTokenizer):
    """A vocabulary of characters (Unicode code points); any other is the unknown token.

        "el gato" -> e | l | " " | g | a | t | o

    The vocabulary is small and texts are long: one token carries little. White space is kept, and decoding is exact but
    for unknown characters. Arguments as in `WordLevelTokenizer`; a token of several characters is a UserError.
    """

    KIND = "characters"
    CUT: ClassVar[Json] = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    JOIN: ClassVar[Json | None] = {"type": "Fuse"}

    def __init__(
        self, vocab: Mapping[str, int], specials: Sequence[str] = (EOT, UNK), unk: str = UNK, name: str = "vocabulary"
    ) -> None:
        super().__init__(vocab, specials, unk, name)
        for token in vocab:
            if len(token) != 1 and token not in (*specials, unk):
                raise UserError(f"{name}: the token {token!r} is not one character: use WordTokenizer")

    @staticmethod
    def spans(text: str) -> list[tuple[int, int]]:
        return [(at, at + 1) for at in range(len(text))]

    def words(self, text: str) -> list[str]:
        return list(text)
