"""Pairs made by a rule: what a row is, that rows never end and never leak, and that batches resume."""

import numpy as np
import pytest

from jaxlm.data import SyntheticPairs
from jaxlm.errors import UserError

DATA = SyntheticPairs(V=8, T=6, holdout=5)


def test_rows():
    rules = {"copy": list, "reverse": lambda x: x[::-1], "sort": sorted}
    for task, rule in rules.items():
        for index in range(50):
            row = SyntheticPairs(task, V=8, T=6).row(0, index)
            n = int(row["source_segments"].sum())
            source, target = row["source"][:n].tolist(), rule(row["source"][:n].tolist())
            assert 1 <= n <= 5 and min(source) >= 3 and max(source) < 8
            assert row["tokens"].tolist() == [1, *target] + [0] * (5 - n)
            assert row["labels"].tolist() == [*target, 2] + [0] * (5 - n)
            assert row["weights"].tolist() == [1.0] * (n + 1) + [0.0] * (5 - n)
            assert not row["source"][n:].any()


def test_training_goes_on_where_it_stopped():
    dataset = DATA.prepare()
    with dataset.train_batches(4) as batches:
        seen = [next(batches) for _ in range(3)]
        state = batches.get_state()
        following = next(batches)
    with dataset.train_batches(4, rows=[1, 3]) as batches:
        batches.set_state(state)
        some = next(batches)
    for name, x in following.items():
        np.testing.assert_array_equal(x[[1, 3]], some[name])
    assert len({x["source"].tobytes() for x in [*seen, following]}) == 4
    assert SyntheticPairs(V=8, T=6, seed=1).prepare().fingerprint != dataset.fingerprint


def test_held_out_rows_are_others_and_the_last_batch_is_filled():
    first, second = DATA.prepare().heldout_rows().batches(4, range(4))
    assert first["tokens"].shape == second["tokens"].shape == (4, 6)
    assert (first["weights"].sum(1) > 0).all() and (second["weights"].sum(1) > 0).tolist() == [
        True,
        False,
        False,
        False,
    ]
    assert DATA.row(0, 0)["source"].tolist() != DATA.row(1, 0)["source"].tolist()
    assert len(list(DATA.prepare().heldout_rows(12).batches(1, [0]))) == 2


def test_measures_and_summary():
    dataset = DATA.prepare()
    assert dataset.measures({"total": 3.0, "nll": 2.0, "weight": 2.0}) == {"loss": 1.0, "perplexity": np.e}
    rule = "SyntheticPairs(task='reverse', V=8, T=6, holdout=5, seed=0)"
    assert dataset.summary(1000) == f"{rule}: 1,000 rows to train on, 5 held out"
    assert dataset.table({"loss": 0.5}) == "held out: loss 0.5000"


def test_what_cannot_be():
    with pytest.raises(UserError, match="T=1 must be at least 2"):
        SyntheticPairs(T=1)
