"""How much an operation on text can cost, worked out before it runs: a short template can make it huge or slow."""

import re
from collections.abc import Callable
from typing import Any

from jaxlm.text.chat.sandbox.budget import LONGEST_BITS, Budget

# A printf conversion: key, flags, width, precision, length, type. A key with brackets inside shows as the type "(".
_CONVERSION = re.compile(r"%(\([^()]*\))?[#0\- +]*(\*|\d*)(?:\.(\*|\d*))?[hlL]?(.)", re.DOTALL)
_NUMBER = re.compile(r"\d+")
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def _padded(text: Any, width: int = 80, *fill: str) -> int:
    return 4 * max(width, 0)


def _replaced(text: Any, old: Any, new: Any, count: int | None = None) -> int:
    places = str(text).count(str(old))
    if count is not None and count >= 0:
        places = min(places, count)
    return 4 * places * len(str(new))


def _indented(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> int:
    lines = 2 + sum(map(text.count, _LINE_ENDS))
    return 4 * lines * (max(width, 0) if isinstance(width, int) else len(width))


def _product(text: Any, other: str | None = None, *rest: Any) -> int:
    """Searching from the right, or for any of many characters, may compare each place with each character."""
    return len(str(text)) * len(other) // 4 if other else 0


def _joined(items: list[Any], separator: Any = "", attribute: Any = None) -> int:
    return 4 * len(items) * len(str(separator))


def _batched(items: Any, size: int, fill: Any = None) -> int:
    return 64 * max(size, 0) if fill is not None else 0


def _rounded(number: Any, precision: int = 0, method: str = "common") -> int:
    if abs(precision) > 400:
        raise OverflowError(f"round to {precision} places")
    return 0


def _summed(numbers: Any, attribute: Any = None, start: Any = 0) -> int:
    if not isinstance(start, int | float):
        raise TypeError("sum adds numbers only")
    return 0


METHODS: dict[str, Callable[..., int]] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _padded),
    **dict.fromkeys(("strip", "lstrip", "rstrip", "rfind", "rindex", "rsplit", "rpartition"), _product),
    "join": lambda separator, items: _joined(items, separator),
    "replace": _replaced,
}
FILTERS: dict[str, Callable[..., int]] = {
    "batch": _batched,
    "center": _padded,
    "indent": _indented,
    "join": _joined,
    "replace": _replaced,
    "round": _rounded,
    "sum": _summed,
    "trim": _product,
}


def printf(budget: Budget, text: str, values: Any) -> None:
    """Pays for `text % values`. Raises ValueError for a width that is itself a value, and for a key with brackets."""
    conversions = _CONVERSION.findall(text)
    cost = len(text)
    for _, width, precision, kind in conversions:
        if "*" in (width, precision) or kind == "(":
            raise ValueError("a % conversion with a '*', or with brackets in its key, is not available")
        cost += int(width or 0) + int(precision or 0)
    times = len(conversions) if isinstance(values, dict) else 1  # a key can be used many times, a position once
    budget.spend(4 * (cost + times * budget.weight(values)))


def field(budget: Budget, value: Any, spec: str) -> None:
    """Pays for one field of `str.format`."""
    budget.spend(4 * (sum(map(int, _NUMBER.findall(spec))) + budget.weight(value)))


def number(operator: str, left: float, right: float) -> None:
    """Raises OverflowError where the result is an integer too long to work out."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > LONGEST_BITS:
            raise OverflowError("a number is too large")


def repeated(budget: Budget, left: Any, right: Any) -> None:
    """Pays for `left * right` where one of them is text or a list."""
    for sequence, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(sequence, str | list | tuple):
            budget.spend(max(times, 0) * len(sequence) * (4 if isinstance(sequence, str) else 64))
