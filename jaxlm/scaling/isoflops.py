"""The best size at each of several compute budgets, and its power law (approach 2 of Hoffmann et al. 2022, 2203.15556).

Runs of one budget C lie on a valley of the loss over log N. A parabola through its bottom gives N_opt(C), and a line
through the bottoms in logarithms N_opt = k C^a, D_opt = k' C^b.
"""

import dataclasses

import numpy as np

from jaxlm.errors import UserError
from jaxlm.scaling.fitting import Estimate
from jaxlm.scaling.runs import Runs

GAP = 0.05  # relative: runs closer than this in compute are of one budget
NEAR = 0.1  # relative: higher than this above a valley's lowest loss it is no parabola
LEAST = 5  # runs of a valley


@dataclasses.dataclass(frozen=True)
class Valley:
    """The runs of one budget, L = c0 + c1 log N + c2 (log N)^2 through those near the bottom, and where that is."""

    flops: float
    runs: Runs
    near: Runs
    coefficients: np.ndarray  # c2, c1, c0: as np.polyval wants them
    parameters: float
    tokens: float
    loss: float


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """y = k C^exponent."""

    k: Estimate
    exponent: Estimate

    def __call__(self, flops: float | np.ndarray) -> float | np.ndarray:
        return self.k.value * flops**self.exponent.value


@dataclasses.dataclass(frozen=True)
class IsoFLOPs:
    valleys: tuple[Valley, ...]
    parameters: PowerLaw
    tokens: PowerLaw


def fit_isoflops(runs: Runs, resamples: int = 1000, seed: int = 0) -> IsoFLOPs:
    """The valleys in `runs` and the power laws of their bottoms. UserError where there are fewer than two valleys.

    A budget is a group of runs closer than `GAP` to one another; those with fewer than `LEAST` runs, or whose lowest
    point lies at an end, are left out. Intervals: the parabolas' residuals are drawn anew and all is fitted again.
    """
    grouped = groups(runs)
    found = [valley for group in grouped if (valley := _valley(group)) is not None]
    if len(found) < 2:
        raise UserError(
            f"isoFLOP curves need two budgets of compute with {LEAST} runs each, the best size between the others: "
            f"of {len(grouped)} budgets {len(found)} are so"
        )
    rng = np.random.default_rng(seed)
    scaled = np.concatenate([_residuals(valley) for valley in found])
    drawn = [_redrawn(valley, scaled, resamples, rng) for valley in found]
    x = np.log([valley.flops for valley in found])
    laws = []
    for values, redrawn in (
        (np.log([valley.parameters for valley in found]), np.stack([sizes for sizes, _ in drawn], -1)),
        (np.log([valley.tokens for valley in found]), np.stack([tokens for _, tokens in drawn], -1)),
    ):
        line = np.linalg.pinv(np.vander(x - x.mean(), 2))  # (slope, height) of values at x
        slopes, heights = line @ np.vstack([values, redrawn]).T
        k = np.exp(heights - slopes * x.mean())
        laws.append(PowerLaw(Estimate.of(k[0], k[1:]), Estimate.of(slopes[0], slopes[1:])))
    return IsoFLOPs(tuple(found), *laws)


def groups(runs: Runs) -> list[Runs]:
    """The runs by budget, from the least compute to the most."""
    runs = runs.by_compute()
    ends = np.flatnonzero(np.diff(np.log(runs.flops)) > GAP) + 1
    return [runs.take(part) for part in np.split(np.arange(len(runs)), ends)]


def _valley(runs: Runs) -> Valley | None:
    near = runs.take(runs.loss <= (1 + NEAR) * runs.loss.min())
    if len(near) < LEAST or len(np.unique(near.parameters)) < 4:
        return None
    sizes = np.log(near.parameters)
    coefficients = np.polyfit(sizes, near.loss, 2)
    bottom = -coefficients[1] / (2 * coefficients[0])
    if coefficients[0] <= 0 or not sizes.min() < bottom < sizes.max():
        return None
    tokens = np.exp(np.polyval(np.polyfit(sizes, np.log(near.tokens), 1), bottom))
    flops = float(np.exp(np.log(runs.flops).mean()))
    loss = float(np.polyval(coefficients, bottom))
    return Valley(flops, runs, near, coefficients, float(np.exp(bottom)), float(tokens), loss)


def _residuals(valley: Valley) -> np.ndarray:
    """Of the parabola, as large as they would be had it not bent towards them (Davison & Hinkley 1997, section 6.3)."""
    design = np.vander(np.log(valley.near.parameters), 3)
    leverage = np.einsum("np,pn->n", design, np.linalg.pinv(design))
    residuals = (valley.near.loss - design @ valley.coefficients) / np.sqrt(np.maximum(1 - leverage, 1e-6))
    return residuals - residuals.mean()


def _redrawn(valley: Valley, residuals: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """log N_opt and log D_opt (count,) with losses drawn anew, kept within the sizes of the runs as the fit itself."""
    sizes = np.log(valley.near.parameters)
    middle = sizes.mean()  # for accuracy
    drawn = np.polyval(valley.coefficients, sizes) + rng.choice(residuals, (count, len(sizes)))
    bend, slope, _ = np.linalg.pinv(np.vander(sizes - middle, 3)) @ drawn.T
    bottom = np.where(bend > 0, middle - slope / (2 * np.where(bend > 0, bend, 1)), -np.inf * np.sign(slope))
    bottom = np.clip(bottom, sizes.min(), sizes.max())
    return bottom, np.polyval(np.polyfit(sizes, np.log(valley.near.tokens), 1), bottom)
