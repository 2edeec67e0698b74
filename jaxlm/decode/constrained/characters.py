"""Sets of characters, and their bytes: in UTF-8, or as they stand within the quotes of a JSON text."""

import functools
import json
from collections.abc import Iterable

from jaxlm.decode.constrained.expressions import Expression, either, literal, of_bytes, repeat, then

Ranges = tuple[tuple[int, int], ...]  # of code points, ends included, sorted and apart

LAST = 0x10FFFF
SURROGATES = ((0xD800, 0xDFFF),)


def ranges(*pairs: tuple[int, int]) -> Ranges:
    """The union of these."""
    found: list[tuple[int, int]] = []
    for a, b in sorted(pairs):
        if found and a <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(b, found[-1][1])
        else:
            found.append((a, b))
    return tuple(found)


def inverse(of: Ranges) -> Ranges:
    edges = [-1, *(edge for a, b in of for edge in (a - 1, b)), LAST]
    return ranges(*((a + 1, b) for a, b in zip(edges[::2], edges[1::2]) if a + 1 <= b))


def without(of: Ranges, away: Ranges) -> Ranges:
    return inverse(ranges(*inverse(of), *away))


def characters(text: str) -> Ranges:
    return ranges(*((ord(c), ord(c)) for c in text))


ANY = inverse(SURROGATES)
DIGITS = (ord("0"), ord("9"))
WORD = ranges(DIGITS, (ord("A"), ord("Z")), (ord("_"), ord("_")), (ord("a"), ord("z")))
SPACE = ranges((9, 13), (32, 32))
ASCII = ((0, 127),)
# What may stand for itself between JSON's quotes.
SAFE = without(ANY, ranges((0, 31), (34, 34), (92, 92), (127, 159)))


@functools.lru_cache(maxsize=1024)
def utf8(of: Ranges) -> Expression:
    """One of these characters in UTF-8."""
    found = []
    for a, b in without(of, SURROGATES):
        for low, high in ((0, 0x7F), (0x80, 0x7FF), (0x800, 0xFFFF), (0x10000, LAST)):
            if (first := max(a, low)) <= (last := min(b, high)):
                found.append(_between(chr(first).encode(), chr(last).encode()))
    return either(*found)


def _between(a: bytes, b: bytes) -> Expression:
    """All characters from one to another of as many bytes."""
    if len(a) == 1 or (a[1:] == b"\x80" * (len(a) - 1) and b[1:] == b"\xbf" * (len(a) - 1)):
        return then(_bytes(a[0], b[0]), *[_bytes(0x80, 0xBF)] * (len(a) - 1))
    if a[0] == b[0]:
        return then(_bytes(a[0], a[0]), _between(a[1:], b[1:]))
    low, high = b"\x80" * (len(a) - 1), b"\xbf" * (len(a) - 1)
    middle = [_between(bytes([a[0] + 1]) + low, bytes([b[0] - 1]) + high)] if b[0] - a[0] > 1 else []
    return either(
        then(_bytes(a[0], a[0]), _between(a[1:], high)), *middle, then(_bytes(b[0], b[0]), _between(low, b[1:]))
    )


def _bytes(first: int, last: int) -> Expression:
    return of_bytes((1 << last + 1) - (1 << first))


@functools.lru_cache(maxsize=1024)
def quoted(of: Ranges) -> Expression:
    """One of these characters within JSON's quotes: as itself where it may be, else by its usual escape."""
    safe = without(of, inverse(SAFE))
    escaped = (c for a, b in without(of, SAFE) for c in range(a, b + 1) if not 0xD800 <= c <= 0xDFFF)
    return either(utf8(safe), *(literal(json.dumps(chr(c))[1:-1].encode()) for c in escaped))


def _one_of(text: str) -> Expression:
    return utf8(characters(text))


@functools.cache
def any_quoted() -> Expression:
    """Any character within JSON's quotes, in every spelling but halves of pairs of surrogates."""
    hexadecimal = _one_of("0123456789abcdefABCDEF")
    four = either(
        then(_one_of("0123456789abcefABCEF"), repeat(hexadecimal, 3, 3)),
        then(_one_of("dD"), _one_of("01234567"), repeat(hexadecimal, 2, 2)),
    )
    return either(utf8(SAFE), then(literal(b"\\"), either(_one_of('"\\/bfnrt'), then(literal(b"u"), four))))


def words(texts: Iterable[str]) -> Expression:
    """One of these texts in UTF-8."""
    return either(*(literal(text.encode()) for text in texts))
