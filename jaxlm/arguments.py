"""What a caller may give for a number or a text: each check returns the plain value, or raises UserError."""

import operator
from collections.abc import Iterable
from typing import Any

from jaxlm.errors import UserError


def kind(value: Any) -> str:
    """A value as a message names it: short values are shown, others by their type."""
    plain = value is None or isinstance(value, bool | float | str | bytes)
    plain = plain or (isinstance(value, int) and abs(value) < 10**30)  # longer ones Python may refuse to print
    if plain and len(shown := repr(value)) < 40:
        return shown
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def integer(value: Any, name: str, least: int | None = None, most: int | None = None) -> int:
    """An int: Python's, NumPy's, or an array without axes. `most` is included."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except (TypeError, ValueError):  # jax's errors of traced and longer arrays are TypeErrors
        raise UserError(f"{name} must be an integer, got {kind(value)}") from None
    if (least is not None and number < least) or (most is not None and number > most):
        low = "" if least is None else f" at least {least}"
        high = "" if most is None else f"{' and' if low else ''} at most {most}"
        raise UserError(f"{name} must be{low}{high}, got {number if abs(number) < 10**40 else 'a very long number'}")
    return number


def number(value: Any, name: str) -> float:
    """A float, which may be NaN: Python's, NumPy's, or an array without axes."""
    try:
        if isinstance(value, bool | str | bytes | bytearray) or getattr(value, "shape", ()) != ():
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{name} must be a number, got {kind(value)}") from None


def positive(value: Any, name: str) -> float:
    """A finite number above 0."""
    found = number(value, name)
    if not 0 < found < float("inf"):
        raise UserError(f"{name} must be a positive number, got {found:g}")
    return found


def text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{name} must be a text, got {kind(value)}")
    return str(value)


def texts(values: Any, name: str = "texts") -> list[str]:
    """The texts of a list, tuple, array or other iterable of them; one text alone is a mistake."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise UserError(f"{name} must be a list of texts, got {kind(values)}")
    name = f"each of {name}"
    return [text(one, name) for one in values]
