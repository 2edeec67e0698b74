"""Added tokens of a tokenizer.json: spellings that become one id wherever they stand in a text."""

import re
from collections.abc import Callable, Iterator, Sequence

import regex

from jaxlm.text.formats.layout import Json

SPACES, SPACES_BEFORE = regex.compile(r"\s+"), regex.compile(r"(?r)\s+")
WORD, WORD_BEFORE = regex.compile(r"\w"), regex.compile(r"(?r)\w")


class AddedTokens:
    """`added` as the file has them. The first token in the text is taken, the longest of several in one place.

    Tokens that are not `normalized` are found in the text as it is; the rest of the text is then normalised, and the
    others are found in that. A token with `lstrip` or `rstrip` swallows the space beside it, and one with `single_word`
    does not stand inside a word.
    """

    def __init__(self, added: Sequence[Json], normalize: Callable[[str], str]) -> None:
        self._normalize = normalize
        self._raw = {token["content"]: token for token in added if not token["normalized"]}
        self._normalized = {normalize(token["content"]): token for token in added if token["normalized"]}
        self._raw_re, self._normalized_re = _any_of(self._raw), _any_of(self._normalized)

    def split(self, text: str, literal: bool) -> Iterator[tuple[str, int | None]]:
        """The text in parts, each with the id of the token it is, or None; `literal` leaves special tokens as text."""
        for part, i in _find(self._raw, self._raw_re, text, literal):
            if i is None:
                yield from _find(self._normalized, self._normalized_re, self._normalize(part), literal)
            else:
                yield part, i


def _any_of(tokens: dict[str, Json]) -> re.Pattern[str] | None:
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if tokens else None


def _find(
    tokens: dict[str, Json], pattern: re.Pattern[str] | None, text: str, literal: bool
) -> Iterator[tuple[str, int | None]]:
    done = 0
    for match in pattern.finditer(text) if pattern else ():
        start, stop = match.span()
        token = tokens[match[0]]
        if literal and token["special"]:
            continue
        if token["single_word"] and (WORD_BEFORE.match(text, 0, start) or WORD.match(text, stop)):
            continue
        if token["lstrip"] and (spaces := SPACES_BEFORE.match(text, done, start)):
            start = spaces.start()
        if token["rstrip"] and (spaces := SPACES.match(text, stop)):
            stop = spaces.end()
        if done < start:
            yield text[done:start], None
        yield text[start:stop], token["id"]
        done = stop
    if done < len(text):
        yield text[done:], None
