"""The ranges of a config's numbers, checked when it is made.

def __post_init__(self):
    check(self, H=">= 1", dropout="[0, 1)", clip="> 0")
"""

import functools
import math
import numbers
import re
from typing import Any

from jaxlm.config_tree import hints, is_config, members, shorten, spell
from jaxlm.errors import OutOfRange

LARGEST = 2**31 - 1  # jax counts and numbers its arrays in int32
LARGEST_FLOAT = 3e38  # and computes in float32
WORDS = {">=": "at least", ">": "above"}


def check(config: Any, **ranges: str) -> None:
    """Raises OutOfRange, naming the field, for a number of `config` that is not of its annotated type or out of range.

    A range is ">= 1", "> 0" or an interval such as "[0, 1)". Every number must be finite and at most `LARGEST` (an
    int) or `LARGEST_FLOAT` in size, also those without a range. None and configs pass where the annotation has them.
    """
    for name, annotation, whole in _number_fields(type(config)):
        value = getattr(config, name)
        if (value is None and type(None) in members(annotation)) or is_config(value):
            continue
        kind = numbers.Integral if whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind):
            raise OutOfRange(f"{name} must be {spell(annotation)}, not {said(value)}")
        within(name, getattr(config, name), ranges.get(name, ""))


def within(name: str, value: float, bounds: str = "") -> None:
    """Raises OutOfRange, naming `name`, for a number outside of the range that `bounds` spells, see `check`."""
    low, above, high, below = _bounds(bounds)
    whole = isinstance(value, numbers.Integral)
    largest = LARGEST if whole and math.isinf(high) else LARGEST_FLOAT
    if abs(value) > largest or value != value:
        raise OutOfRange(f"{name}={said(value)} must be finite and at most {largest} in size")
    good = (value > low if above else value >= low) and (value < high if below else value <= high)
    if not good:
        sign, _, number = bounds.partition(" ")
        raise OutOfRange(f"{name}={value} must {f'be {WORDS[sign]} {number}' if sign in WORDS else f'lie in {bounds}'}")


def said(value: Any) -> str:
    """A value in an error's line. Python itself spells no number of more than some thousand digits."""
    if isinstance(value, int) and value.bit_length() > 100:
        return f"a number of {value.bit_length()} bits"
    return shorten(repr(value))


@functools.cache
def _number_fields(cls: type) -> list[tuple[str, Any, bool]]:
    """(name, annotation, whether whole) of the fields that hold a number."""
    found = [(name, annotation, members(annotation)) for name, annotation in hints(cls).items()]
    return [(name, annotation, float not in kinds) for name, annotation, kinds in found if {int, float} & {*kinds}]


@functools.cache
def _bounds(text: str) -> tuple[float, bool, float, bool]:
    """The lowest number, whether that one is out, the highest, whether that one is out."""
    if not text:
        return -math.inf, False, math.inf, False
    if one := re.fullmatch(r"(>=?) (\S+)", text):
        return float(one[2]), one[1] == ">", math.inf, False
    both = re.fullmatch(r"([\[(])(\S+), (\S+)([\])])", text)
    assert both is not None, text
    return float(both[2]), both[1] == "(", float(both[3]), both[4] == ")"
