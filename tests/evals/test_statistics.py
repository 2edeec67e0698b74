"""Intervals hold what they promise on draws from a known source."""

import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.evals import statistics

RNG = np.random.default_rng(0)


def test_intervals_cover():
    held = {"wilson": 0, "bootstrap": 0}
    for seed in range(200):
        draw = RNG.random(60) < 0.7
        low, high = statistics.wilson(int(draw.sum()), 60)
        held["wilson"] += low <= 0.7 <= high
        low, high = statistics.bootstrap(draw, 400, seed=seed)
        held["bootstrap"] += low <= 0.7 <= high
    assert 180 <= held["wilson"] <= 198 and 175 <= held["bootstrap"] <= 198, held
    assert statistics.wilson(0, 10)[0] < 1e-9 and statistics.wilson(10, 10)[1] > 1 - 1e-9
    assert statistics.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_standard_error_and_other_statistics():
    row = RNG.normal(size=400)
    assert statistics.standard_error(row) == pytest.approx(row.std(ddof=1) / 20)
    low, high = statistics.bootstrap(row)
    assert high - low == pytest.approx(2 * 1.96 * statistics.standard_error(row), rel=0.15)
    assert statistics.bootstrap(row, 250) == statistics.bootstrap(row, 250)
    low, high = statistics.bootstrap(row, statistic=lambda x: np.median(x, -1))
    assert low < np.median(row) < high


def test_paired_tests():
    a = (RNG.random(300) < 0.6).astype(float)
    b = np.where(RNG.random(300) < 0.1, 0, a)  # a little worse, on the same items
    found = statistics.paired(a, b, 2000)
    assert found.p < 0.01 and 0 < found.low < found.mean < found.high
    assert statistics.mcnemar(a, b) < 0.01
    assert statistics.paired(a, a, 200).p == 1 and statistics.mcnemar(a, a) == 1
    assert statistics.mcnemar([1, 1, 1, 0], [0, 0, 0, 1]) == pytest.approx(10 / 16)
    low = [statistics.paired(*RNG.normal(size=(2, 30)), samples=200, seed=i).p < 0.05 for i in range(150)]
    assert np.mean(low) < 0.12  # of pairs that do not differ


def test_bad_input():
    for call in (
        lambda: statistics.bootstrap([]),
        lambda: statistics.bootstrap([1, np.nan]),
        lambda: statistics.paired([1, 2], [1]),
        lambda: statistics.mcnemar([1, 2], [0, 1]),
        lambda: statistics.wilson(1, 2, level=1.5),
    ):
        with pytest.raises(UserError):
            call()
