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
FEW = 4  # runs a constant below which there are too few to draw from
STEPS = 1000
EXACT = 1e-9  # relative change of the objective at which a search ends
GIVE_UP = 1e8  # damping at which no step helps


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and how sure it is: percentiles of the resamples at `LEVEL`, and their standard deviation, which is NaN
    or infinite where they know no bound."""

    value: float
    low: float
    high: float
    error: float

    @staticmethod
    def of(value: float, resampled: np.ndarray) -> "Estimate":
        with np.errstate(all="ignore"):
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

    def undetermined(self) -> list[str]:
        """The constants that these runs leave open: an E whose interval is wider than a quarter of the lowest loss, an
        exponent whose interval covers a factor of more than 3, or zero."""
        found = self.constants()
        wide = [name for name, e in found.items() if name.startswith(("alpha", "beta")) and not e.high <= 3 * e.low]
        if "E" in found and not found["E"].high - found["E"].low <= self.runs.loss.min() / 4:
            wide.insert(0, "E")
        return wide

    def far_off(self) -> int:
        """How many of the runs of the highest loss the law misses by far more than it misses most: those that
        `Runs.without_highest` would better leave out. 0 for more than a tenth of the runs."""
        off = np.abs(self.errors())[np.argsort(-self.runs.loss, kind="stable")]
        usual = max(float(np.median(off)), 1e-3)
        count = int(np.argmin(off > 5 * usual)) if (off <= 5 * usual).any() else 0
        if not 0 < count <= len(off) / 10:
            return 0
        return count if off[:count].max() > max(10 * usual, 2 * off[count:].max()) else 0


def fit(runs: Runs, form: Form = ChinchillaForm(), resamples: int = 1000, seed: int = 0) -> Fit:
    """The law of `form` that fits `runs` best. Raises UserError where they cannot tell its constants apart."""
    _check(runs, form)
    every = np.ones((1, len(runs)))
    thetas, objectives = minimise(form, runs, form.starts(runs), every)
    best = int(objectives.argmin())
    resampled = _resample(form, runs, thetas[best], resamples, np.random.default_rng(seed))
    return Fit(form, runs, form.law(thetas[best]), form.law(resampled), float(objectives[best]))


def _resample(form: Form, runs: Runs, theta: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The thetas (count, constants) of as many resamples: runs drawn with replacement; of few runs, the fitted law with
    new noise.

    Few runs drawn so are too few different ones: any law through them fits, and the search ends where it began. The
    noise is of the size of the residuals, and as unsure of it as their number says (scaled inverse chi-squared).
    """
    ones, free = np.ones((count, len(runs))), len(form.names)
    predicted, starts = form.predict(theta[None], runs)[0], form.starts(runs)
    first = starts[[_huber(form, np.log(runs.loss), runs, starts, ones[:1]).argmin()]]  # no term is nothing there
    if len(runs) >= FEW * free:
        weights = rng.multinomial(len(runs), np.full(len(runs), 1 / len(runs)), count)  # how often each run is drawn
        log_loss, steps = None, STEPS
    else:
        squares = ((predicted - np.log(runs.loss)) ** 2).sum()
        noise = np.sqrt(squares / rng.chisquare(len(runs) - free, (count, 1)))
        weights, log_loss = ones, predicted + noise * rng.standard_normal((count, len(runs)))
        steps = STEPS // 5  # many go on for ever, to where a constant is nothing
    # A search cannot bring back a term that had gone to nothing in the fit.
    gone = np.abs(form.predict(theta[None], runs)[1][0]).max(0).min() < 1e-3
    ends = [minimise(form, runs, np.repeat(start, count, 0), weights, log_loss, steps)
            for start in ([theta[None], first] if gone or log_loss is not None else [theta[None]])]  # fmt: skip
    nearest = np.argmin([objectives for _, objectives in ends], 0)
    return np.stack([thetas for thetas, _ in ends])[nearest, np.arange(count)]


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


def minimise(
    form: Form,
    runs: Runs,
    theta: np.ndarray,
    weights: np.ndarray,
    log_loss: np.ndarray | None = None,
    steps: int = STEPS,
) -> tuple[np.ndarray, np.ndarray]:
    """From each theta (batch, constants) to a minimum of the Huber loss with these weights of the runs (batch, runs).

    `log_loss` (batch, runs) stands in for the logarithms of their losses. Levenberg-Marquardt on reweighted least
    squares: a residual r weighs min(1, DELTA / |r|), so that the weighted square has the Huber loss's gradient. Returns
    thetas (batch, constants) and their objectives (batch,).
    """
    theta, weights = theta.copy(), np.broadcast_to(weights, (len(theta), len(runs)))
    wanted = np.broadcast_to(np.log(runs.loss) if log_loss is None else log_loss, weights.shape)
    objective = _huber(form, wanted, runs, theta, weights)
    damping, at = np.full(len(theta), 1e-3), np.arange(len(theta))  # `at`: the searches still going
    for _ in range(steps):
        step = _step(form, wanted[at], runs, theta[at], weights[at], damping[at])
        new = theta[at] + step
        reached = _huber(form, wanted[at], runs, new, weights[at])
        better = reached < objective[at]
        ended = np.where(better, objective[at] - reached <= EXACT * objective[at], damping[at] > GIVE_UP)
        damping[at] = np.where(better, damping[at] / 5, damping[at] * 4)
        theta[at[better]], objective[at[better]] = new[better], reached[better]
        at = at[~ended]
        if not len(at):
            break
    return theta, objective


def _step(
    form: Form, wanted: np.ndarray, runs: Runs, theta: np.ndarray, weights: np.ndarray, damping: np.ndarray
) -> np.ndarray:
    predicted, slopes = form.predict(theta, runs)
    residuals = predicted - wanted
    weights = weights * np.minimum(1, DELTA / np.maximum(np.abs(residuals), 1e-300))
    weighted = (slopes * weights[..., None]).swapaxes(1, 2)
    curvature = weighted @ slopes
    diagonal = np.einsum("bpp->bp", curvature)
    damped = damping[:, None] * diagonal + 1e-12 * diagonal.max(-1, keepdims=True) + 1e-300
    gradient = weighted @ residuals[..., None]
    return -np.linalg.solve(curvature + damped[:, :, None] * np.eye(theta.shape[1]), gradient)[..., 0]


def _huber(form: Form, wanted: np.ndarray, runs: Runs, theta: np.ndarray, weights: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):  # a step too far is infinite, or no number, and not taken
        far = np.abs(form.predict(theta, runs)[0] - wanted)
        loss = np.where(far <= DELTA, far**2 / 2, DELTA * (far - DELTA / 2))
    return (weights * loss).sum(-1)
