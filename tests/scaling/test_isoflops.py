import dataclasses

import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.scaling import Runs, fit_isoflops
from jaxlm.scaling.isoflops import groups
from tests.scaling import published, synthetic


def parabolas(exponent: float, noise: float, seed: int = 0) -> Runs:
    """Five budgets whose losses are parabolas of log N about 0.05 C^exponent."""
    flops = np.repeat(np.geomspace(1e18, 1e21, 5), 8)
    best = 0.05 * flops**exponent
    parameters = best * np.tile(np.geomspace(1 / 4, 4, 8), 5)
    loss = 10 * flops**-0.03 + 0.04 * np.log(parameters / best) ** 2
    loss += np.random.default_rng(seed).normal(0, noise, len(flops))
    return Runs(parameters, flops / (6 * parameters), loss)


def test_exact_parabolas_give_their_law():
    found = fit_isoflops(parabolas(0.49, 0.0), resamples=10)
    assert len(found.valleys) == 5
    assert found.parameters.exponent.value == pytest.approx(0.49, rel=1e-6)
    assert found.parameters.k.value == pytest.approx(0.05, rel=1e-4)
    assert found.tokens.exponent.value == pytest.approx(0.51, rel=1e-6)
    assert found.parameters(3e19) * found.tokens(3e19) * 6 == pytest.approx(3e19, rel=1e-6)
    for valley in found.valleys:
        assert valley.parameters == pytest.approx(0.05 * valley.flops**0.49, rel=1e-6)
        assert valley.loss == pytest.approx(10 * valley.flops**-0.03, rel=1e-6)


def test_intervals_cover_the_exponent():
    covered, widths, errors = [], [], []
    for seed in range(60):
        a = fit_isoflops(parabolas(0.49, 0.005, seed), resamples=200, seed=seed).parameters.exponent
        covered.append(a.low <= 0.49 <= a.high)
        widths.append(a.error)
        errors.append(a.value - 0.49)
    assert 0.88 <= np.mean(covered) < 1
    assert np.mean(widths) == pytest.approx(np.std(errors), rel=0.3)


def test_a_law_is_found_within_its_curves_being_no_parabolas():
    law = dataclasses.replace(synthetic.LAW, beta=0.33)
    found = fit_isoflops(synthetic.runs(law), resamples=10)
    assert found.parameters.exponent.value == pytest.approx(law.exponent, abs=0.01)


def test_runs_are_grouped_by_compute_and_bad_budgets_left_out():
    runs = parabolas(0.49, 0.0)
    jitter = np.exp(np.random.default_rng(0).uniform(-0.02, 0.02, len(runs)))
    shuffled = Runs(runs.parameters, runs.tokens * jitter, runs.loss).take(np.random.default_rng(1).permutation(40))
    assert [len(group) for group in groups(shuffled)] == [8] * 5
    one_sided = runs.parameters > 0.05 * runs.flops.max() ** 0.49 * 1.1  # of the last budget only the large
    cut = runs.take((runs.flops < 0.9 * runs.flops.max()) | one_sided)
    assert len(fit_isoflops(cut, resamples=4).valleys) == 4


def test_without_two_curves_one_line_says_so():
    runs = parabolas(0.49, 0.0).take(slice(8))
    with pytest.raises(UserError, match=r"two budgets of compute with 5 runs each.* of 1 budgets 1 are so"):
        fit_isoflops(runs)


def test_chinchillas_own_runs(shared):
    """Approach 2 of Hoffmann et al. 2022 (arXiv:2203.15556), table 2: a = 0.49, b = 0.51."""
    found = fit_isoflops(published.chinchilla(shared))
    a, b = found.parameters.exponent, found.tokens.exponent
    assert a.value == pytest.approx(0.49, abs=0.02) and b.value == pytest.approx(0.51, abs=0.02)
    assert a.low < 0.49 < a.high
    assert found.parameters(5.76e23) == pytest.approx(67e9, rel=0.1)  # the paper's projection for Gopher's budget
