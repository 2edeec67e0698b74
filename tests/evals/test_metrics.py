"""Scores against their definitions written out, and against the public scorers where these are installed."""

import itertools
import math
import random

import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.evals import metrics

LETTERS = ["a", "b", "la", "niño", "x.", "¿qué?", "el"]


def texts(count, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(LETTERS, k=rng.randrange(0, 9))) for _ in range(count)]


def slow_edits(a, b):
    if not a or not b:
        return len(a) + len(b)
    return min(slow_edits(a[1:], b) + 1, slow_edits(a, b[1:]) + 1, slow_edits(a[1:], b[1:]) + (a[0] != b[0]))


def test_edits_are_the_fewest():
    for a, b in zip(texts(30), texts(30, 1)):
        a, b = a.split()[:5], b.split()[:5]
        assert metrics.edits(a, b) == slow_edits(a, b)


def test_error_rates():
    assert metrics.error_rate(["hola mundo"], ["hola mundo cruel"]) == pytest.approx(1 / 3)
    assert metrics.error_rate(["a b c", ""], ["x", "y z"]) == pytest.approx((3 + 2) / 3)
    assert metrics.error_rate([" niño "], ["niña"], "characters") == 0.25
    with pytest.raises(UserError, match="no words"):
        metrics.error_rate(["a"], [" "])


def test_error_rates_equal_jiwer():
    jiwer = pytest.importorskip("jiwer")
    found, wanted = texts(1000), [text or "un" for text in texts(1000, 1)]
    assert metrics.error_rate(found, wanted) == pytest.approx(jiwer.wer(wanted, found))
    assert metrics.error_rate(found, wanted, "characters") == pytest.approx(jiwer.cer(wanted, found))
    for a, b in zip(found[:50], wanted[:50]):
        assert metrics.error_rate([a], [b]) == pytest.approx(jiwer.wer(b, a))


def test_pass_at_k_is_the_share_of_draws():
    for n, c in itertools.product(range(1, 7), range(7)):
        for k in range(1, n + 1):
            if c <= n:
                draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
                assert metrics.pass_at_k(n, c, k) == pytest.approx(np.mean([max(d) for d in draws]))
    with pytest.raises(UserError, match="k must be at least 1 and at most 3"):
        metrics.pass_at_k(3, 1, 4)


def test_labels():
    found, wanted = list("aabbc"), list("abbbd")
    assert metrics.accuracy(found, wanted) == 0.6
    assert metrics.f1(found, wanted, "micro") == 0.6
    assert metrics.f1(found, wanted) == pytest.approx(np.mean([2 / 3, 4 / 5, 0, 0]))
    for a, b in ((["a"], []), ([], [])):
        with pytest.raises(UserError, match=r"give one for each|nothing to score"):
            metrics.accuracy(a, b)


def test_answers():
    assert metrics.exact_match("The  Cat!", ["a dog", "cat"]) == 1
    assert metrics.exact_match("¡El niño!", "niño", "es") == 1
    assert metrics.exact_match("El niño", "nino", "es") == 0
    assert metrics.word_f1("the black cat", ["a cat", "dog"]) == pytest.approx(2 * 1 / (2 + 1))
    assert metrics.word_f1("the", "a") == 1
    with pytest.raises(UserError, match="articles are known of en, es"):
        metrics.exact_match("a", "b", "fr")


def test_calibration():
    p, y = np.array([0.9, 0.8, 0.3, 0.31, 1.0, 0.0]), np.array([1, 0, 0, 1, 1, 0])
    slow = 0.0
    for low in np.arange(10) / 10:
        inside = [i for i in range(6) if low < p[i] <= low + 0.1 + 1e-12 or (low == 0 and p[i] == 0)]
        if inside:
            slow += len(inside) / 6 * abs(p[inside].mean() - y[inside].mean())
    assert metrics.expected_calibration_error(p, y, 10) == pytest.approx(slow)
    assert metrics.brier(p, y) == pytest.approx(sum((a - b) ** 2 for a, b in zip(p, y)) / 6)
    rng = np.random.default_rng(0)
    honest = rng.random(20_000)
    assert metrics.expected_calibration_error(honest, rng.random(20_000) < honest) < 0.02
    with pytest.raises(UserError, match="must lie in 0"):
        metrics.brier([2.0], [1])


def test_translation():
    pytest.importorskip("sacrebleu")
    found = ["the cat sat on the mat here", "a dog"]
    scores = metrics.translation(found, [[one, "other words"] for one in found])
    assert math.isclose(scores["bleu"], 100) and math.isclose(scores["chrf"], 100)
    assert "tok:13a|smooth:exp" in scores["signature"] and "nrefs:2" in scores["signature"]
    assert metrics.translation(["a b c d e"], ["a b c d f"])["bleu"] == pytest.approx(66.87, abs=0.01)
    with pytest.raises(UserError, match="equally many references"):
        metrics.translation(["a", "b"], [["a"], ["b", "c"]])
