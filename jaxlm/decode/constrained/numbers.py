"""Decimal numbers within bounds, as JSON writes them without an exponent."""

from collections.abc import Callable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from jaxlm.decode.constrained.expressions import (
    EMPTY,
    NOTHING,
    Expression,
    both,
    either,
    literal,
    of_bytes,
    optional,
    other_than,
    repeat,
    then,
)

DIGITS, BEHIND = 15, 6  # of an integer, and behind a point, where nothing says more


def digits(low: str = "0", high: str = "9") -> Expression:
    return of_bytes((1 << ord(high) + 1) - (1 << ord(low))) if low <= high else NOTHING


ANY = digits()
MINUS = literal(b"-")
WHOLE = either(literal(b"0"), then(digits("1"), repeat(ANY, 0, DIGITS - 1)))
FRACTION = then(literal(b"."), repeat(ANY, 1, BEHIND))
INTEGER = then(optional(MINUS), WHOLE)
NUMBER = then(
    INTEGER,
    optional(FRACTION),
    optional(then(literal(b"e"), optional(of_bytes(1 << 43 | 1 << 45)), digits("1"), optional(ANY))),
)


def integers(low: int | None, high: int | None) -> Expression:
    """All integers from `low` to `high`, both included."""
    return either(_natural(low, high), _negative(low, high, _natural, 1))


def reals(low: Decimal | None, high: Decimal | None, open_low: bool, open_high: bool) -> Expression:
    """All decimals between these; an open end is not among them."""
    found = either(_real(low, high), _negative(low, high, _real, Decimal(0)))
    ends = [end for end, is_open in ((low, open_low), (high, open_high)) if is_open and end is not None]
    return both(found, other_than(either(*map(_equal, ends)))) if ends else found


def _negative(low: Any, high: Any, positive: Callable[[Any, Any], Expression], least: Any) -> Expression:
    """Those below zero, by their opposites."""
    if low is not None and low >= 0:
        return NOTHING
    return then(MINUS, positive(least if high is None else max(-high, least), None if low is None else -low))


def _natural(least: int | None, high: int | None) -> Expression:
    low = max(least or 0, 0)
    if high is None:
        n = len(str(low))
        longer = then(digits("1"), repeat(ANY, n, max(n, DIGITS - 1)))
        return either(_same_length(str(low), "9" * n), longer)
    found, n = [], len(str(low))
    while low <= high:
        last = min(high, 10**n - 1)
        found.append(_same_length(str(low), str(last)))
        low, n = 10**n, n + 1
    return either(*found)


def _same_length(low: str, high: str) -> Expression:
    """The strings of digits from one to another of as many."""
    if not low:
        return EMPTY
    if low == "0" * len(low) and high == "9" * len(high):
        return repeat(ANY, len(low), len(low))
    (a, low), (b, high) = (low[0], low[1:]), (high[0], high[1:])
    if a == b:
        return then(digits(a, a), _same_length(low, high))
    middle = then(digits(chr(ord(a) + 1), chr(ord(b) - 1)), repeat(ANY, len(low), len(low)))
    return either(
        then(digits(a, a), _same_length(low, "9" * len(low))),
        middle,
        then(digits(b, b), _same_length("0" * len(high), high)),
    )


def _real(least: Decimal | None, high: Decimal | None) -> Expression:
    low = max(least or Decimal(0), Decimal(0))
    if high is not None and high < low:
        return NOTHING
    first = int(low.to_integral_value(ROUND_CEILING))
    bottom, top = int(low.to_integral_value(ROUND_FLOOR)), None
    found = []
    if high is not None:
        top = int(high.to_integral_value(ROUND_FLOOR))
    if bottom < first:  # 2.5: 2 with .5 or more
        fraction = _at_least(_fraction(low))
        if top == bottom and high is not None:
            fraction = both(fraction, _at_most(_fraction(high)))
        found.append(then(literal(str(bottom).encode()), literal(b"."), fraction))
    if top is None or first < top:
        found.append(then(_natural(first, None if top is None else top - 1), optional(FRACTION)))
    if top is not None and high is not None and top >= first:
        at_most = optional(then(literal(b"."), _at_most(_fraction(high))))
        found.append(then(literal(str(top).encode()), at_most))
    return either(*found)


def _fraction(x: Decimal) -> str:
    """The digits behind the point."""
    return format(x, "f").partition(".")[2].rstrip("0")


def _at_least(wanted: str) -> Expression:
    """Digits behind a point that make at least these."""
    found = [then(literal(wanted.encode()), repeat(ANY, 0, BEHIND))]
    for i, digit in enumerate(wanted):
        above = digits(chr(ord(digit) + 1)) if digit < "9" else NOTHING
        found.append(then(literal(wanted[:i].encode()), above, repeat(ANY, 0, BEHIND)))
    return either(*found)


def _at_most(wanted: str) -> Expression:
    """Digits behind a point, one or more, that make at most these."""
    found = [then(literal(wanted.encode()), repeat(literal(b"0"), 0 if wanted else 1, BEHIND))]
    for i, digit in enumerate(wanted):
        below = digits("0", chr(ord(digit) - 1)) if digit > "0" else NOTHING
        found += [then(literal(wanted[:i].encode()), below, repeat(ANY, 0, BEHIND))]
        found += [literal(wanted[:i].encode())] if i else []
    return either(*found)


def _equal(x: Decimal) -> Expression:
    """All ways to write a decimal without an exponent."""
    whole, _, fraction = format(abs(x), "f").partition(".")
    fraction, zeros = fraction.rstrip("0"), repeat(literal(b"0"))
    behind = (
        then(literal(b"."), literal(fraction.encode()), zeros) if fraction else optional(then(literal(b"."), zeros))
    )
    return then(MINUS if x < 0 else EMPTY if x else optional(MINUS), literal(whole.encode()), behind)
