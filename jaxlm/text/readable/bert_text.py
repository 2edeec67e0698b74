"""How BERT prepares a text and cuts it into words (Devlin et al. 2019, arXiv:1810.04805).

    " Él dijo:¡Sí!" -> " el dijo:¡si!" -> el | dijo | : | ¡ | si | !

Every character is normalised by itself: one table does it all. The same as `BertNormalizer` and `BertPreTokenizer` of
Hugging Face's `tokenizers`, character by character.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property

from jaxlm.errors import UserError
from jaxlm.text.formats import bert_tables
from jaxlm.text.formats.layout import Json, bert_normalizer


def _members(ranges: str) -> str:
    """The set of characters that a table spells in hexadecimal, as a regular expression's class without brackets."""
    ends = [entry.split("-") for entry in ranges.split()]
    return "".join(rf"\U{int(first, 16):08x}-\U{int(last, 16):08x}" for first, *_, last in ([*e, e[-1]] for e in ends))


def _is_one_of(ranges: str):
    return re.compile(f"[{_members(ranges)}]").fullmatch


_dropped, _chinese, _accent, _space, _undivided = map(
    _is_one_of,
    (bert_tables.DROPPED, bert_tables.CHINESE, bert_tables.ACCENTS, bert_tables.SPACES, bert_tables.UNDIVIDED),
)
_SPACES, _MARKS = _members(bert_tables.SPACES), _members(bert_tables.PUNCTUATION)
_WORD = re.compile(f"[{_MARKS}]|[^{_MARKS}{_SPACES}]+")


def _young_capitals() -> dict[str, str]:
    small = {}
    for entry in bert_tables.YOUNG_CAPITALS.split():
        capitals, _, to = entry.partition(":")
        first, _, last = capitals.partition("-")
        for code in range(int(first, 16), int(last or first, 16) + 1):
            small[chr(code)] = chr(code - int(first, 16) + int(to, 16))
    return small


_SMALL = _young_capitals()


def cut(text: str) -> list[str]:
    """Words and punctuation: white space separates, every punctuation mark is a word of its own."""
    return _WORD.findall(text)


def cut_spans(text: str) -> list[tuple[int, int]]:
    """Where the words of `cut` begin and end."""
    return [match.span() for match in _WORD.finditer(text)]


@dataclass(frozen=True)
class BertNormalizer:
    """What is done to a text before it is cut.

    Attributes:
        lowercase: letters become small ones, one by one.
        strip_accents: characters are decomposed (NFD) and their accents dropped: "ñ" becomes "n". None: as `lowercase`.
        chinese: spaces are put around every ideograph.
        clean: control characters are dropped, and every kind of white space becomes a space.
    """

    lowercase: bool = True
    strip_accents: bool | None = None
    chinese: bool = True
    clean: bool = True

    def __call__(self, text: str) -> str:
        return text.translate(self._table)

    def aligned(self, text: str) -> tuple[str, list[int]]:
        """The normalised text, and for each of its characters the place of the one it came from."""
        parts = [self._table[ord(character)] for character in text]
        return "".join(parts), [at for at, part in enumerate(parts) for _ in part]

    @cached_property
    def _table(self) -> "_Table":
        return _Table(self)

    def character(self, c: str) -> str:
        """What one character becomes: itself, others, or nothing."""
        if self.clean and _dropped(c):
            return ""
        if self.clean and _space(c):
            return " "
        if self.chinese and _chinese(c):
            c = f" {c} "
        if self.lowercase if self.strip_accents is None else self.strip_accents:
            if not _undivided(c):
                c = unicodedata.normalize("NFD", c)
            c = "".join(part for part in c if not _accent(part))
        if self.lowercase:  # one by one: a Greek sigma at the end of a word becomes an ordinary one
            c = "".join(_SMALL.get(part) or part.lower() for part in c)
        return c

    @classmethod
    def from_json(cls, spec: Json | None, name: str) -> "BertNormalizer":
        """From the `normalizer` of a parsed `tokenizer.json`; UserError if it is of another kind."""
        if spec is None or spec.get("type") != "BertNormalizer":
            kind = None if spec is None else spec.get("type")
            raise UserError(f"{name}: its normalizer is {kind!r}, not 'BertNormalizer': open it with FastTokenizer")
        return cls(spec["lowercase"], spec["strip_accents"], spec["handle_chinese_chars"], spec["clean_text"])

    def to_json(self) -> Json:
        return bert_normalizer(self.lowercase, self.chinese, self.strip_accents) | {"clean_text": self.clean}


class _Table(dict[int, str]):
    """What each character becomes, filled as they are met."""

    def __init__(self, normalizer: BertNormalizer) -> None:
        self._normalizer = normalizer

    def __missing__(self, code: int) -> str:
        self[code] = became = self._normalizer.character(chr(code))
        return became
