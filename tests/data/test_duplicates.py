"""Planted duplicates are found in bounded memory, what is only a little alike stays."""

import numpy as np
import pytest

from jaxlm.data.duplicates import BANDS, HASHES, NearDuplicates, deduplicated
from jaxlm.errors import UserError

RNG = np.random.default_rng(0)
VOCABULARY = np.array([f"word{i}" for i in range(5000)])


def text(words=200):
    return RNG.choice(VOCABULARY, words).tolist()


def jaccard(a, b, n=5):
    a, b = ({tuple(x[i : i + n]) for i in range(len(x) - n + 1)} for x in (a, b))
    return len(a & b) / len(a | b)


def changed(words, times):
    """With some words replaced."""
    words = list(words)
    for at in RNG.choice(len(words), times, replace=False):
        words[at] = "other"
    return words


def test_signatures_estimate_the_similarity():
    finder = NearDuplicates(texts=8)
    for times in (0, 2, 5, 12):
        a = text(400)
        b = changed(a, times)
        same = (finder.signature(" ".join(a)) == finder.signature(" ".join(b))).mean()
        assert same == pytest.approx(jaccard(a, b), abs=4 * (0.25 / HASHES) ** 0.5)


def test_planted_duplicates_are_found():
    found, planted, wrong, alike = 0, 0, 0, 0
    finder = NearDuplicates(texts=2000)
    for _ in range(300):
        original = text()
        assert finder.add(" ".join(original)) is None
        close, far = changed(original, 3), changed(original, 40)
        if jaccard(original, close) >= 0.8:
            planted += 1
            found += finder.add(" ".join(close).upper() + "!") is not None
        if jaccard(original, far) < 0.5:
            alike += 1
            wrong += finder.add(" ".join(far)) is not None
    assert planted > 150 and found / planted >= 0.95 and alike > 250 and wrong == 0


def test_memory_is_bounded_and_old_texts_are_forgotten():
    finder = NearDuplicates(texts=64)
    first = " ".join(text())
    before = finder.memory
    finder.add(first)
    assert finder.add(first).of == 0
    for _ in range(200):
        finder.add(" ".join(text()))
    assert finder.memory == before <= 64 * HASHES + 4 * 64 * BANDS * 6 and finder.add(first) is None


def test_short_and_empty_texts():
    got = list(deduplicated(["a b", "", "A b.", "", "b a"], NearDuplicates(texts=16)))
    assert [match.of if match else None for _, match in got] == [None, None, 0, None, None]
    with pytest.raises(UserError, match="threshold must lie in"):
        NearDuplicates(0)
