"""More samples: against enumeration, and with a model that is a table."""

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from jaxlm.align import rewards
from jaxlm.align.sampling import (
    best_of_n,
    expected_best,
    kl_bound,
    normalised,
    rejection_sample,
    self_consistency,
    vote,
)
from jaxlm.errors import UserError


class Table:
    """Gives its texts in turn."""

    def __init__(self, *texts):
        self.texts = itertools.cycle(texts)

    def generate(self, prompts, sampler=None, key=None, **how):
        return SimpleNamespace(texts=[next(self.texts) for _ in prompts], logprobs=np.full((len(prompts), 2), -0.5))


def test_the_best_of_n():
    found = best_of_n(Table("a", "ccc", "bb"), ["p", "q"], 3, lambda prompts, texts: [len(t) for t in texts])
    assert [one.text for one in found] == ["ccc", "ccc"] and found[0].scores.tolist() == [1, 3, 2]


def test_the_mean_over_all_subsets_and_the_bound():
    rng = np.random.default_rng(0)
    scores, truth = rng.normal(size=(3, 6)), rng.normal(size=(3, 6))
    for n in (1, 3, 6):
        subsets = list(itertools.combinations(range(6), n))
        np.testing.assert_allclose(expected_best(scores, n), np.mean([scores[:, s].max(1) for s in subsets]))
        wanted = np.mean([truth[np.arange(3), np.array(s)[scores[:, s].argmax(1)]] for s in subsets])
        np.testing.assert_allclose(expected_best(scores, n, truth), wanted)
    with pytest.raises(UserError, match="N=7 cannot be estimated from 6"):
        expected_best(scores, 7)
    assert kl_bound(1) == 0 and kl_bound(4) == math.log(4) - 0.75


def test_right_samples_become_training_data(tmp_path):
    rows = [{"prompt": "1+1=", "answer": 2}, {"prompt": "2+2=", "answer": 4}]
    count = rejection_sample(Table("2", "5", "2"), rows, 3, rewards.number, tmp_path / "sft.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "sft.jsonl").read_text().splitlines()]
    assert count == 1 and lines == [{"prompt": "1+1=", "completion": "2"}]


def test_majorities():
    assert vote(["a", "b", "a", ""], [0, 0, 0, 0]).answer == "a"
    assert vote(["a", "b"], [-2.0, -1.0]).answer == "b"  # ties by probability
    assert vote(["", ""], [0, 0]) == ("", 0.0, {})
    assert normalised("#### 1,234.") == normalised("<answer> 1234</answer>") == "1234"
    assert normalised("Yes.") == "yes"
    (found,) = self_consistency(Table("so 7", "so 7", "so 8"), ["p"], 3)
    assert found.answer == "so 7" and found.share == pytest.approx(2 / 3)
