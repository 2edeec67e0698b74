import pytest

from jaxlm.convert.fields import Fields
from jaxlm.errors import UserError

C = Fields({"n": 3, "f": 2, "whole": 4.0, "half": 0.5, "s": "silu", "b": False, "l": [1], "d": {"x": 1}, "none": None})


def test_values():
    assert (C.int("n"), C.size("n"), C.int("whole"), C.float("f"), C.float("half")) == (3, 3, 4, 2.0, 0.5)
    assert type(C.int("whole")) is int and type(C.float("f")) is float
    assert (C.str("s"), C.bool("b"), C.list("l"), C.section("d").int("x")) == ("silu", False, [1], 1)
    assert C.one_of("s", among={"silu": "ours"}) == "ours"


def test_older_spellings_and_defaults():
    assert C.int("absent", "n") == 3 and C.int("none", "n") == 3
    assert C.int("none", default=7) == 7 and C.int("absent", default=None) is None
    assert C.get("absent") is None and C.get("none", "n", default=2) == 3
    assert C.section("none", default=None) is None
    assert C.one_of("absent", among={"relu": 1}, default="relu") == 1


@pytest.mark.parametrize(
    "read, message",
    [
        (lambda c: c.int("absent"), "here: absent is missing"),
        (lambda c: c.int("absent", "none"), "here: absent or none is missing"),
        (lambda c: c.int("half"), "here: half must be a whole number, not 0.5"),
        (lambda c: c.int("b"), "here: b must be a whole number, not False"),
        (lambda c: c.size("zero"), r"here: zero must be at least 1 and below 2\*\*31, not 0"),
        (lambda c: c.size("huge"), r"here: huge must be at least 1 and below 2\*\*31, not 2147483648"),
        (lambda c: c.float("s"), "here: s must be a number, not 'silu'"),
        (lambda c: c.float("nan"), "here: nan must be a number, not nan"),
        (lambda c: c.bool("n"), "here: n must be true or false, not 3"),
        (lambda c: c.str("l"), r"here: l must be a text, not \[1\]"),
        (lambda c: c.section("n"), "here: n must be an object, not 3"),
        (lambda c: c.section("d").int("y"), "here: d: y is missing"),
        (lambda c: c.one_of("s", among={"relu": 1, "gelu": 2}), "here: s 'silu' is not supported: relu, gelu"),
        (lambda c: c.one_of("l", among={"relu": 1}), r"here: l \[1\] is not supported: relu"),
        (lambda c: c.one_of("absent", among={}), "here: absent is missing"),
        (lambda c: c.int("long"), f"not '{'x' * 59}$"),
    ],
)
def test_mistakes(read, message):
    fields = Fields(C.values | {"zero": 0, "huge": 2**31, "nan": float("nan"), "long": "x" * 1000}, "here")
    with pytest.raises(UserError, match=message):
        read(fields)
