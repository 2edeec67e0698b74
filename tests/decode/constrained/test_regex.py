import re

import numpy as np
import pytest

from jaxlm.decode import Choices, Regex
from jaxlm.decode.constrained.expressions import literal, other_than, repeat
from jaxlm.decode.constrained.regex import regex
from jaxlm.errors import UserError
from tests.decode.constrained.test_schema import written

PATTERNS = [
    r"\d{3}-[a-z]+", r"(a|bc)*d?", r"[^a]é.", r"(?:x+?y){2,3}", r"[\-\]^]{2}", r"\x41\u00e9[\t ]\.", r"(ab|a)(bc|c)?",
    r"^abc$", r"[a-c\d]*", r"(a?){3}b", r"a{2,}", r"(?P<name>q)|w\+", r"\S{1,3}", r"[^\x00-\x7f]{2}", r"a{0}b", r"{x}",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_texts_match_and_acceptance_is_that_of_re(pattern):
    rng, expression = np.random.default_rng(0), regex(pattern)
    texts = written(expression, 20, rng, n=6)
    for text in texts:
        assert re.fullmatch(pattern, text), text
    for text in [
        *texts,
        "",
        "a",
        "ab",
        "abc",
        "abcbc",
        "bcd",
        "aab",
        "aaaab",
        "12-a",
        "123-a",
        "xyxy",
        "q",
        "w+",
        "{x}",
    ]:
        for changed in (text, text[1:], text + "a", text[:-1]):
            x = expression
            for byte in changed.encode():
                x = x.step(byte)
            assert x.nullable == bool(re.fullmatch(pattern, changed)), changed


def test_expressions_are_states():
    """Equal ones are one object, and a repetition has as many states as it has counts."""
    assert regex("ab|cd") is regex("cd|ab") and regex("(a)(bc)") is regex("abc")
    states, waiting = set(), [regex("(a|b){3,5}c")]
    while waiting:
        if (x := waiting.pop()) not in states:
            states.add(x)
            waiting += [x.step(byte) for byte in b"abc"]
    assert len(states) == 8
    assert other_than(other_than(literal(b"x"))) is literal(b"x")
    assert other_than(repeat(literal(b"a"))).shortest == 1 and regex("a{7}|b{9}").shortest == 7


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Regex("a(b"), r"'a\(b' has a \( without a \)"),
        (lambda: Regex("ab)"), r"has a \) without a \( \(at character 3\)"),
        (lambda: Regex("[ab"), r"has a \[ without a \]"),
        (lambda: Regex("[b-a]"), "a range that ends before it begins"),
        (lambda: Regex("*a"), "repeats nothing"),
        (lambda: Regex("a**"), "repeats a repetition"),
        (lambda: Regex("a{3,2}"), "at most fewer times than at least"),
        (lambda: Regex("a{99999}"), "repeats more than 10,000 times"),
        (lambda: Regex(r"(?=a)b"), "looks around"),
        (lambda: Regex(r"(?<!a)b"), "looks around"),
        (lambda: Regex(r"(a)\1"), r"has \\1, which is not understood"),
        (lambda: Regex(r"\bx"), r"has \\b"),
        (lambda: Regex(r"\p{L}"), r"has \\p"),
        (lambda: Regex(r"\xZZ"), r"has a \\x without the digits"),
        (lambda: Regex("a$b"), r"has a \$ that is not at its end"),
        (lambda: Regex("(" * 5000), "nested too deeply|without"),
        (lambda: Regex(3), "a regular expression must be a text, got 3"),
        (lambda: Choices([]), "choices must be texts that are not empty"),
        (lambda: Choices([""]), "choices must be texts that are not empty"),
        (lambda: Choices("yes"), "choices must be a list of texts, got 'yes'"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(UserError, match=message):
        make()
