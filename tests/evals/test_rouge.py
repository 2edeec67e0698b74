"""ROUGE against the definition by hand, and against rouge-score where it is installed."""

import itertools
import random

import pytest

from jaxlm.errors import UserError
from jaxlm.evals import rouge
from jaxlm.evals.rouge import KINDS


def texts(count, seed=0, letters="abcde"):
    rng = random.Random(seed)
    return ["".join(rng.choice(letters + "  \n") for _ in range(rng.randrange(0, 30))) for _ in range(count)]


def test_spanish_letters_stay():
    assert rouge.words("El niño comió, ¿o no? a_1") == ["el", "niño", "comió", "o", "no", "a", "1"]
    assert rouge.ascii_words("El niño") == ["el", "ni", "o"]
    assert rouge.rouge("el nino", "el niño", ["rouge1"])["rouge1"][2] == 0.5
    assert rouge.words("nin\u0303o") == ["niño"]


def test_by_hand():
    found = rouge.rouge("police kill the gunman", "police killed the gunman")
    assert found["rouge1"] == (0.75, 0.75, 0.75) and found["rougeL"][2] == 0.75
    assert found["rouge2"][2] == pytest.approx(1 / 3)
    one, other = "a b\nc d", "c d\na b"
    assert rouge.rouge(one, other)["rougeL"][2] == 0.5 and rouge.rouge(one, other)["rougeLsum"][2] == 1
    assert rouge.rouge("", "a") == dict.fromkeys(KINDS, (0, 0, 0))
    assert rouge.rouge_mean(["a", "b"], ["a", "c"])["rouge1"] == 0.5
    with pytest.raises(UserError, match="no kind of ROUGE"):
        rouge.rouge("a", "b", ["rougeW"])


def inside(c, b):
    rest = iter(b)
    return all(x in rest for x in c)


def test_the_subsequence_is_a_longest_one():
    for a, b in zip(texts(40, 2, "abc"), texts(40, 3, "abc")):
        a, b = a.split()[:7], b.split()[:7]
        best = max(n for n in range(len(a) + 1) if any(inside(c, b) for c in itertools.combinations(a, n)))
        at = rouge.common(a, b)
        assert len(at) == best and at == sorted(set(at)) and inside([a[i] for i in at], b)


def test_equal_to_rouge_score():
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(list(KINDS))
    edges = ["", " ", "\n", "a", "A a", "the cat.\nthe dog", "it's 1,000", "niño", "x" * 200]
    pairs = [*zip(texts(1000), texts(1000, 1)), *itertools.product(edges, edges)]
    for found, wanted in pairs:
        ours = rouge.rouge(found, wanted, tokenize=rouge.ascii_words)
        for kind, score in scorer.score(wanted, found).items():
            assert ours[kind] == pytest.approx((score.precision, score.recall, score.fmeasure)), (found, wanted, kind)
