"""Cutting a text into words as the `pre_tokenizer` of a tokenizer.json says, in plain Python.

Patterns are compiled by the `regex` package, in its version 1 syntax with `^` and `$` at every line: what the Oniguruma
patterns of the `tokenizers` library mean, sets inside sets and `&&` included. The two know different versions of
Unicode: around a character that one of them takes for unassigned, words can differ.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import regex

from jaxlm.errors import UserError, unknown
from jaxlm.text.formats.layout import GPT2, Json

Cut = Callable[[str], list[str]]

BEHAVIORS = ("Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext")
PUNCTUATION = r"[\p{P}$+<=>^`|~]"  # Unicode's, and the ASCII symbols that keyboards have


def cutter(spec: Json | None, name: str) -> Cut:
    """The function that cuts a text as a `pre_tokenizer` does, each step cutting what the last left; None leaves it.

    Known are Split, Digits, Punctuation, WhitespaceSplit, Metaspace, ByteLevel and Sequence. Words are text: spelling
    them in the visible characters of their bytes is left to the vocabulary.

    Raises:
        UserError: another kind of step, or a pattern that does not compile; `name` is the file's.
    """
    kinds = [*steps_of(spec)]
    if "ByteLevel" in [kind["type"] for kind in kinds[:-1]]:
        raise UserError(f"{name}: ByteLevel before another pre_tokenizer has no readable form here: use FastTokenizer")
    steps = [step for kind in kinds for step in _steps(kind, name)]

    def cut(text: str) -> list[str]:
        words = [text] if text else []
        for step in steps:
            words = step(words[0]) if len(words) == 1 else [word for part in words for word in step(part)]
        return words

    return cut


def pattern_of(spec: Json, name: str) -> Any:
    """The compiled pattern of a Split or a Replace, which is a regular expression or a plain string."""
    return compiled(spec["Regex"] if "Regex" in spec else regex.escape(spec["String"]), name)


def compiled(pattern: str, name: str) -> Any:
    try:
        return regex.compile(pattern, regex.V1 | regex.MULTILINE)
    except regex.error as error:
        raise UserError(f"{name}: the pattern {pattern!r} is no regular expression: {error}") from None


def steps_of(spec: Json | None) -> Iterator[Json]:
    """The steps of a `pre_tokenizer`, sequences inside sequences laid out flat."""
    if spec is not None and spec["type"] == "Sequence":
        for part in spec["pretokenizers"]:
            yield from steps_of(part)
    elif spec is not None:
        yield spec


def _steps(kind: Json, name: str) -> Iterator[Cut]:
    if kind["type"] == "ByteLevel":
        if kind["add_prefix_space"]:
            yield lambda text: [text if not text or text.startswith(" ") else f" {text}"]
        if kind.get("use_regex", True):
            yield _isolated(compiled(GPT2, name))
    elif kind["type"] == "Digits":
        yield _split(compiled(r"\p{N}", name), "Isolated" if kind["individual_digits"] else "Contiguous", False)
    elif kind["type"] == "Punctuation":
        yield _split(compiled(PUNCTUATION, name), kind["behavior"], False)
    elif kind["type"] == "Split":
        yield _split(pattern_of(kind["pattern"], name), kind["behavior"], kind["invert"])
    elif kind["type"] == "WhitespaceSplit":
        yield regex.compile(r"\S+").findall
    elif kind["type"] == "Metaspace" and kind.get("prepend_scheme") in ("always", "never"):
        yield functools.partial(_metaspace, kind)
    else:
        raise UserError(
            f"{name}: the pre_tokenizer {kind['type']!r} has no readable form here: open the file with FastTokenizer"
        )


def _split(pattern: Any, behavior: str, invert: bool) -> Cut:
    """What becomes of the matches, which `invert` exchanges with the text between them."""
    if behavior == "Isolated":
        return _isolated(pattern)
    if behavior not in BEHAVIORS:
        raise unknown("behavior of a Split", behavior, BEHAVIORS)

    def cut(text: str) -> list[str]:
        parts = [(part, matched != invert) for part, matched in _parts(pattern, text)]
        if behavior == "Removed":
            return [part for part, matched in parts if not matched]
        forward = behavior != "MergedWithNext"
        words: list[str] = []
        before = False
        for part, matched in parts if forward else reversed(parts):
            if words and (matched == before if behavior == "Contiguous" else matched and not before):
                words[-1] = words[-1] + part if forward else part + words[-1]
            else:
                words.append(part)
            before = matched
        return words if forward else words[::-1]

    return cut


def _isolated(pattern: Any) -> Cut:
    """Every match is a word, and so is the text between two; most patterns leave none."""

    def cut(text: str) -> list[str]:
        words = [] if pattern.groups else pattern.findall(text)
        return words if sum(map(len, words)) == len(text) else [part for part, _ in _parts(pattern, text)]

    return cut


def _parts(pattern: Any, text: str) -> Iterator[tuple[str, bool]]:
    """The text in parts, each with whether it is a match."""
    end = 0
    for match in pattern.finditer(text):
        start, stop = match.span()
        if end < start:
            yield text[end:start], False
        if start < stop:
            yield text[start:stop], True
        end = stop
    if end < len(text):
        yield text[end:], False


def _metaspace(step: Json, text: str) -> list[str]:
    """Spaces as the mark "▁", one in front of the text; a word begins with each mark."""
    mark = step["replacement"]
    text = text.replace(" ", mark)
    if step["prepend_scheme"] == "always" and text and not text.startswith(mark):
        text = mark + text
    if not step.get("split", True):
        return [text] if text else []
    first, *others = text.split(mark)
    return [word for word in [first, *(mark + other for other in others)] if word]
