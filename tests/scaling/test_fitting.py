import dataclasses

import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.scaling import ChinchillaForm, Kaplan, KaplanForm, Runs, fit
from jaxlm.scaling.fitting import Estimate, minimise
from tests.scaling import published, synthetic

FORMS = [ChinchillaForm(), ChinchillaForm(tied=True), KaplanForm()]
IDS = ["chinchilla", "tied", "kaplan"]


def objective(theta, form, runs, weights):
    """The Huber loss of the logarithms, written out."""
    total = 0.0
    for n, d, loss, weight in zip(runs.parameters, runs.tokens, runs.loss, weights):
        r = abs(np.log(form.law(theta).loss(n, d)) - np.log(loss))
        total += weight * (r * r / 2 if r <= 1e-3 else 1e-3 * (r - 5e-4))
    return total


@pytest.mark.parametrize("form", FORMS, ids=IDS)
def test_predictions_are_the_laws_and_slopes_their_derivatives(form):
    runs = synthetic.runs(noise=0.01)
    theta = form.starts(runs)[3:5] * 1.01
    predicted, slopes = form.predict(theta, runs)
    for one, value in zip(theta, predicted):
        np.testing.assert_allclose(value, np.log(form.law(one).loss(runs.parameters, runs.tokens)), rtol=1e-10)
    for i in range(theta.shape[1]):
        shift = 1e-5 * np.eye(theta.shape[1])[i]
        slope = (form.predict(theta + shift, runs)[0] - form.predict(theta - shift, runs)[0]) / 2e-5
        np.testing.assert_allclose(slopes[..., i], slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS, ids=IDS)
def test_a_known_law_is_found_exactly(form):
    law = {
        "ChinchillaForm": synthetic.LAW if len(form.names) == 5 else dataclasses.replace(synthetic.LAW, beta=0.32),
        "KaplanForm": Kaplan(N_c=5e13, D_c=2e13, alpha_N=0.08, alpha_D=0.1),
    }[type(form).__name__]
    found = fit(synthetic.runs(law), form, resamples=4)
    for name in form.names:
        assert getattr(found.law, name) == pytest.approx(getattr(law, name), rel=1e-3), name
    assert np.abs(found.errors()).max() < 1e-6


def test_the_minimum_is_that_of_l_bfgs():
    """The method of the paper, on weighted runs with an outlier."""
    from scipy.optimize import minimize as l_bfgs  # comes with jax

    runs = synthetic.runs(noise=0.01, budgets=3, sizes=5)
    runs.loss[3] *= 1.3
    weights = np.random.default_rng(1).multinomial(15, np.full(15, 1 / 15)).astype(float)
    form = ChinchillaForm()
    _, ours = minimise(form, runs, form.starts(runs), weights)

    def scaled(theta):
        predicted, slopes = form.predict(theta[None], runs)
        r = predicted[0] - np.log(runs.loss)
        loss = np.where(abs(r) <= 1e-3, r * r / 2, 1e-3 * (abs(r) - 5e-4))
        return 1e6 * weights @ loss, 1e6 * (weights * np.clip(r, -1e-3, 1e-3)) @ slopes[0]

    starts = [(0.5, 5.0, 5.0, 0.3, 0.3), (0.0, 5.0, 8.0, 0.3, 0.4)]
    theirs = min(
        (l_bfgs(scaled, np.array(start), jac=True, method="L-BFGS-B") for start in starts), key=lambda r: r.fun
    )
    assert theirs.fun / 1e6 == pytest.approx(objective(theirs.x, form, runs, weights), rel=1e-9)
    assert theirs.fun / 1e6 == pytest.approx(ours.min(), rel=1e-3) and ours.min() <= theirs.fun / 1e6 * (1 + 1e-6)


def test_an_outlier_moves_nothing_much():
    runs = synthetic.runs(noise=0.002)
    clean = fit(runs, resamples=4)
    runs.loss[7] *= 1.5
    moved = fit(runs, resamples=4)
    assert moved.law.exponent == pytest.approx(clean.law.exponent, abs=0.01)
    assert abs(moved.law.E - clean.law.E) < 0.02


def test_intervals_cover_the_truth():
    """Of 95 % intervals nearly all hold the true constant; and they are no wider than they must be."""
    covered, widths, errors = [], [], []
    for seed in range(12):
        found = fit(synthetic.runs(noise=0.01, seed=seed), resamples=60, seed=seed)
        a = found.estimate(lambda law: law.exponent)
        loss = found.estimate(lambda law: law.optimum(1e22).loss)
        covered += [
            e.low <= t <= e.high for e, t in ((a, synthetic.LAW.exponent), (loss, synthetic.LAW.optimum(1e22).loss))
        ]
        widths.append(a.error)
        errors.append(a.value - synthetic.LAW.exponent)
    assert np.mean(covered) >= 0.8
    assert np.mean(widths) == pytest.approx(np.std(errors), rel=0.5)


def test_a_seed_gives_the_same_again_and_another_another():
    runs = synthetic.runs(noise=0.01, budgets=3, sizes=5)
    first, again, other = (fit(runs, resamples=20, seed=seed).estimate(lambda law: law.E) for seed in (0, 0, 1))
    assert first == again and first.value == other.value and first.low != other.low


@pytest.mark.parametrize(("count", "seed"), [(6, 0), (9, 0), (9, 1)])
def test_few_runs_do_not_determine_E(count, seed):
    """Their intervals are wide, hold the truth, and say so."""
    chance = np.random.default_rng(seed)
    parameters = 10 ** chance.uniform(7, 9, count)
    tokens = parameters * chance.uniform(10, 60, count)
    loss = synthetic.LAW.loss(parameters, tokens) * np.exp(chance.normal(0, 0.01, count))
    found = fit(Runs(parameters, tokens, loss), resamples=40)
    E = found.constants()["E"]
    assert E.low < synthetic.LAW.E < E.high and E.high - E.low > 0.5 and "E" in found.undetermined()


def test_enough_or_exact_runs_determine_all():
    assert fit(synthetic.runs(noise=0.002), resamples=60).undetermined() == []
    assert fit(synthetic.runs(budgets=3, sizes=3), resamples=10).undetermined() == []


def test_runs_far_off_are_counted():
    runs = synthetic.runs(noise=0.002)
    assert fit(runs, resamples=4).far_off() == 0
    highest = np.argsort(-runs.loss)
    runs.loss[highest[:2]] *= 1.2
    assert fit(runs, resamples=4).far_off() == 2
    runs.loss[highest[40]] *= 1.5  # the highest now
    assert fit(runs, resamples=4).far_off() == 3
    runs.loss[highest[:8]] *= 1.2  # more than a few
    assert fit(runs, resamples=4).far_off() == 0
    exact = synthetic.runs()
    exact.loss[highest[0]] *= 1.0001
    assert fit(exact, resamples=4).far_off() == 0


def test_an_estimate_is_of_percentiles():
    e = Estimate.of(1.0, np.linspace(0, 1, 101))
    assert (e.low, e.high) == pytest.approx((0.025, 0.975)) and e.error == pytest.approx(0.2915, abs=1e-3)


@pytest.mark.parametrize(
    "parameters, tokens, form, message",
    [
        (
            np.geomspace(1, 9, 5),
            np.geomspace(1, 9, 5),
            ChinchillaForm(),
            r"a fit of 5 constants \(E, A, .* 6 runs, there are 5",
        ),
        (np.full(8, 3e6), np.geomspace(1, 9, 8), ChinchillaForm(), r"all runs have the same parameters \(3e\+06\)"),
        (np.geomspace(1, 9, 8), np.full(8, 2.0), KaplanForm(), r"all runs have the same tokens \(2\)"),
        (np.array([1.0, 2] * 4), np.geomspace(1, 9, 8), ChinchillaForm(), "have 2 different parameters .* needs 3"),
    ],
)
def test_too_few_or_too_alike_runs_are_one_line(parameters, tokens, form, message):
    with pytest.raises(UserError, match=message):
        fit(Runs(parameters, tokens, np.full(len(tokens), 3.0)), form)


def test_the_replication_of_chinchilla(shared):
    """Besiroglu et al. 2024 (arXiv:2404.10102), table 1: constants and, of 4,000 resamples, standard errors.

    They leave out the five runs of the highest loss. Theirs is where their search stopped: its objective on these runs
    is 0.4 % above the minimum.
    """
    runs = published.chinchilla(shared)
    every = fit(runs, resamples=4)
    assert every.far_off() == 5 and every.constants()["beta"].value == pytest.approx(0.453, abs=0.002)
    runs = runs.without_highest(5)
    assert len(runs) == 240 and runs.loss.max() < 3.43
    found = fit(runs, resamples=300)
    assert found.far_off() == 0 and found.undetermined() == []
    constants = found.constants()
    for name, value, error in (
        ("E", 1.8172, 0.03),
        ("A", 482.01, 124.58),
        ("B", 2085.43, 1293.23),
        ("alpha", 0.3478, 0.02),
        ("beta", 0.3658, 0.02),
    ):
        assert constants[name].value == pytest.approx(value, abs=0.1 * error), name
        assert constants[name].error == pytest.approx(error, rel=0.35), name
    assert constants["E"].value == pytest.approx(1.8172, abs=2e-4)
    a = found.estimate(lambda law: law.exponent)
    assert a.value == pytest.approx(0.512, abs=0.004) and a.low < 0.5 < a.high
    theirs = np.array([np.log(1.8172), np.log(482.01), np.log(2085.43), 0.3478, 0.3658])
    assert found.objective < objective(theirs, found.form, runs, np.ones(240)) < 1.006 * found.objective


def test_over_trained_and_larger_runs_are_foretold(shared):
    """Gadre et al. 2024 (arXiv:2403.08540): five runs below 0.5B parameters foretell those of 1.4B and 6.9B.

    RedPajama, loss on C4; four runs at 20 tokens a parameter and one at 320, as they chose. They state 0.7 % of error.
    """
    runs = published.overtrained(shared, "rpj", "c4_val")
    ratio = np.round(runs.tokens / runs.parameters)
    few = runs.take(((ratio == 20) & (runs.parameters < 1e9)) | ((ratio == 320) & (runs.parameters < 2e7)))
    large = runs.take(runs.parameters > 1e9).by_compute()
    assert len(few) == 5 and len(large) == 3 and 6 * large.tokens[-1] > 10 * 6 * few.tokens.max()
    found = fit(few, ChinchillaForm(tied=True), resamples=4)
    assert np.abs(found.errors(large)).max() < 0.007
    twenty = runs.take((ratio == 20) & (runs.parameters < 5e9))  # a power law of compute
    largest = runs.take(runs.parameters > 5e9)
    assert abs(fit(twenty, ChinchillaForm(tied=True), resamples=4).errors(largest)).max() < 0.01
