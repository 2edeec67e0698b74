import itertools
from decimal import Decimal

import pytest

from jaxlm.decode.constrained import numbers


def accepts(x, text):
    for byte in text.encode():
        x = x.step(byte)
    return x.nullable


@pytest.mark.parametrize("low", [None, -120, -9, 0, 7, 99])
@pytest.mark.parametrize("high", [None, -9, 0, 12, 99, 1005])
def test_integers_are_those_within(low, high):
    x = numbers.integers(low, high)
    for n in range(-130, 1100):
        assert accepts(x, str(n)) == ((low is None or n >= low) and (high is None or n <= high)), n
    assert not any(accepts(x, text) for text in ("", "-", "007", "1.0", "+1"))


@pytest.mark.parametrize("open_low", [False, True])
@pytest.mark.parametrize("open_high", [False, True])
@pytest.mark.parametrize("low", [None, "-1.25", "0", "0.5", "2"])
@pytest.mark.parametrize("high", [None, "-0.3", "0", "2.05", "3"])
def test_decimals_are_those_within(low, high, open_low, open_high):
    low, high = (None if x is None else Decimal(x) for x in (low, high))
    x = numbers.reals(low, high, open_low, open_high)
    for whole, fraction in itertools.product(
        range(5), ["", ".0", ".04", ".05", ".050", ".06", ".2", ".25", ".3", ".5", ".51"]
    ):
        for sign in ("", "-"):
            n = Decimal(text := f"{sign}{whole}{fraction}")
            above = low is None or (n > low if open_low else n >= low)
            below = high is None or (n < high if open_high else n <= high)
            if n or not sign:  # zero need not have a sign
                assert accepts(x, text) == (above and below), text
            else:
                assert not accepts(x, text) or (above and below), text
    assert not any(accepts(x, text) for text in ("", "-", "1.", ".5", "01", "1e1"))
