"""Counting words, and forgetting the rare ones."""

import random
from collections import Counter

import pytest

from jaxlm.errors import UserError
from jaxlm.text.counts import LONGEST, count_words


def test_every_word_is_counted_where_there_is_room() -> None:
    texts = ["el gato", "el gato come", "", "el"]
    assert [*count_words(texts, str.split).items()] == [("el", 3), ("gato", 2), ("come", 1)]


def test_frequent_words_survive_any_number_of_rare_ones() -> None:
    chance = random.Random(0)
    words = [f"common{i}" for i in range(20)]
    true: Counter[str] = Counter()

    def texts():
        for i in range(3000):
            line = chance.choices(words, k=10) + [f"rare{i}-{k}" for k in range(10)]
            true.update(line)
            yield " ".join(line)

    counts = count_words(texts(), str.split, most=200)
    assert len(counts) <= 400
    assert all(counts[word] == true[word] for word in words)
    assert all(count <= true[word] for word, count in counts.items())


def test_a_long_word_is_counted_in_parts() -> None:
    counts = count_words(["a " + "b" * (2 * LONGEST + 1)], str.split)
    assert counts == {"a": 1, "b" * LONGEST: 2, "b": 1}


def test_what_is_no_list_of_texts_is_refused() -> None:
    with pytest.raises(UserError, match="a list of texts, not one"):
        count_words("el gato", str.split)
    with pytest.raises(UserError, match="lone surrogate"):
        count_words(["a", "b\ud800"], str.split)
