"""A law fitted to runs, with bootstrap intervals (approach 3 of Hoffmann et al. 2022, arXiv:2203.15556).

The constants minimise sum_i huber(log L(N_i, D_i) - log L_i), delta = 1e-3. The paper searches with L-BFGS from a grid
of starts; here reweighted Gauss-Newton steps do, since the starts, and later all resamples, then go in one batch of
small linear systems and end at the same minimum.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxlm.errors import UserError
from jaxlm.scaling.forms import ChinchillaForm, Form
from jaxlm.scaling.law import Law, Value
from jaxlm.scaling.runs import Runs

DELTA = 1e-3  # of the Huber loss: runs further off count by distance, not by its square
LEVEL = 0.95  # of intervals
STEPS = 1000
EXACT = 1e-9  # relative change of the objective at which a search ends
GIVE_UP = 1e8  # damping at which no step helps


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and how sure it is: percentiles of the resamples at `LEVEL`, and their standard deviation."""

    value: float
    low: float
    high: float
    error: float

    @staticmethod
    def of(value: float, resampled: np.ndarray) -> "Estimate":
        low, high = np.nanpercentile(resampled, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
        return Estimate(float(value), float(low), float(high), float(np.nanstd(resampled)))


@dataclasses.dataclass(frozen=True)
class Fit:
    """What `fit` found: the law, the laws of the resamples (its constants as arrays), the runs and the objective."""

    form: Form
    runs: Runs
    law: Law
    resampled: Law
    objective: float

    def estimate(self, f: Callable[[Any], Value]) -> Estimate:
        """Any function of a law with its interval: `fit.estimate(lambda law: law.optimum(1e21).parameters)`."""
        return Estimate.of(f(self.law), f(self.resampled))

    def constants(self) -> dict[str, Estimate]:
        return {name: self.estimate(lambda law, name=name: getattr(law, name)) for name in self.form.names}

    def errors(self, runs: Runs | None = None) -> np.ndarray:
        """Relative errors of the predicted losses, of the fitted runs or of others."""
        runs = self.runs if runs is None else runs
        return self.law.loss(runs.parameters, runs.tokens) / runs.loss - 1


def fit(runs: Runs, form: Form = ChinchillaForm(), resamples: int = 1000, seed: int = 0) -> Fit:
    """The law of `form` that fits `runs` best. Raises UserError where they cannot tell its constants apart."""
    _check(runs, form)
    every = np.ones((1, len(runs)))
    thetas, objectives = minimise(form, runs, form.starts(runs), every)
    best = int(objectives.argmin())
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), resamples)  # how often each run is drawn
    resampled, _ = minimise(form, runs, np.repeat(thetas[[best]], resamples, 0), counts)
    return Fit(form, runs, form.law(thetas[best]), form.law(resampled), float(objectives[best]))


def _check(runs: Runs, form: Form) -> None:
    free = len(form.names)
    if len(runs) <= free:
        raise UserError(
            f"a fit of {free} constants ({', '.join(form.names)}) needs {free + 1} runs, there are {len(runs)}"
        )
    for name in ("parameters", "tokens"):
        values = np.unique(getattr(runs, name))
        if len(values) < (least := 3 if free > 4 else 2):
            said = "all runs have the same" if len(values) == 1 else f"the runs have {len(values)} different"
            raise UserError(f"{said} {name} ({values[0]:.4g}): a fit needs {least} different ones")


def minimise(form: Form, runs: Runs, theta: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From each theta (batch, constants) to a minimum of the Huber loss with these weights of the runs (batch, runs).

    Levenberg-Marquardt on reweighted least squares: a residual r weighs min(1, DELTA / |r|), so that the weighted
    square has the Huber loss's gradient. Returns thetas (batch, constants) and their objectives (batch,).
    """
    theta, weights = theta.copy(), np.broadcast_to(weights, (len(theta), len(runs)))
    objective = _huber(form, runs, theta, weights)
    damping, at = np.full(len(theta), 1e-3), np.arange(len(theta))  # `at`: the searches still going
    for _ in range(STEPS):
        step = _step(form, runs, theta[at], weights[at], damping[at])
        new = theta[at] + step
        reached = _huber(form, runs, new, weights[at])
        better = reached < objective[at]
        ended = np.where(better, objective[at] - reached <= EXACT * objective[at], damping[at] > GIVE_UP)
        damping[at] = np.where(better, damping[at] / 5, damping[at] * 4)
        theta[at[better]], objective[at[better]] = new[better], reached[better]
        at = at[~ended]
        if not len(at):
            break
    return theta, objective


def _step(form: Form, runs: Runs, theta: np.ndarray, weights: np.ndarray, damping: np.ndarray) -> np.ndarray:
    predicted, slopes = form.predict(theta, runs)
    residuals = predicted - np.log(runs.loss)
    weights = weights * np.minimum(1, DELTA / np.maximum(np.abs(residuals), 1e-300))
    weighted = (slopes * weights[..., None]).swapaxes(1, 2)
    curvature = weighted @ slopes
    diagonal = np.einsum("bpp->bp", curvature)
    damped = damping[:, None] * diagonal + 1e-12 * diagonal.max(-1, keepdims=True) + 1e-300
    gradient = weighted @ residuals[..., None]
    return -np.linalg.solve(curvature + damped[:, :, None] * np.eye(theta.shape[1]), gradient)[..., 0]


def _huber(form: Form, runs: Runs, theta: np.ndarray, weights: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):  # a step too far is infinite, or no number, and not taken
        far = np.abs(form.predict(theta, runs)[0] - np.log(runs.loss))
        loss = np.where(far <= DELTA, far**2 / 2, DELTA * (far - DELTA / 2))
    return (weights * loss).sum(-1)
