"""Byte-complete tokenizers give back every text, and refuse what is no text."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import characters, lists, text

from jaxlm.errors import UserError
from jaxlm.text import Tokenizer

EXAMPLES, STRINGS = 300, 50  # 15,000 random strings for each of seven tokenizers

strings = text(characters(exclude_categories=()), max_size=40)  # lone surrogates and control characters included


def is_text(string: str) -> bool:
    return not any(0xD800 <= ord(character) < 0xE000 for character in string)


def test_every_random_text_comes_back(tokenizer: Tokenizer) -> None:
    seen = 0

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=[*HealthCheck]
    )
    @given(lists(strings, min_size=STRINGS, max_size=STRINGS))
    def round_trip(strings: list[str]) -> None:
        nonlocal seen
        seen += len(strings)
        whole = [string for string in strings if is_text(string)]
        plain, literal = tokenizer.encode_batch(whole), tokenizer.encode_batch(whole, literal=True)
        for string, ids, taken in zip(whole, plain, literal, strict=True):
            assert tokenizer.decode(ids) == string == tokenizer.decode(taken)
            assert tokenizer.decode_bytes(taken) == string.encode()
        for string in strings:
            if not is_text(string):
                with pytest.raises(UserError, match="lone surrogate"):
                    tokenizer.encode(string)

    round_trip()
    assert seen >= EXAMPLES * STRINGS
