"""How sure a score is: standard errors, intervals, and whether one model is better than another on the same items."""

import dataclasses
import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from jaxlm import arguments
from jaxlm.errors import UserError

Statistic = Callable[[np.ndarray], np.ndarray]  # (samples, n) -> (samples,)


@dataclasses.dataclass(frozen=True)
class Difference:
    """The mean of a - b, its interval, and the p-value of there being none."""

    mean: float
    low: float
    high: float
    p: float


def _row(values: ArrayLike, name: str = "values") -> np.ndarray:
    row = np.asarray(values, np.float64)
    if row.ndim != 1 or not len(row) or not np.isfinite(row).all():
        raise UserError(f"{name} must be a row of finite numbers, got shape {row.shape}")
    return row


def _level(level: float) -> float:
    if not 0 < arguments.number(level, "level") < 1:
        raise UserError(f"level must lie between 0 and 1, got {level:g}")
    return level


def standard_error(values: ArrayLike) -> float:
    """s / sqrt(n) of a mean, s with n - 1; 0 of a single value."""
    row = _row(values)
    return float(row.std(ddof=1) / math.sqrt(len(row))) if len(row) > 1 else 0.0


def wilson(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share (1927): it stays within 0 .. 1 and holds at few items."""
    n, correct = arguments.integer(n, "n", 1), arguments.integer(correct, "correct", 0, n)
    z = NormalDist().inv_cdf((1 + _level(level)) / 2)
    p, scale = correct / n, 1 + z * z / n
    middle = (p + z * z / (2 * n)) / scale
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(
    values: ArrayLike, samples: int = 1000, level: float = 0.95, seed: int = 0, statistic: Statistic | None = None
) -> tuple[float, float]:
    """The percentile bootstrap's interval (Efron 1979) of a mean, or of any `statistic` along the last axis."""
    row, rng = _row(values), np.random.default_rng(seed)
    found = []
    for first in range(0, arguments.integer(samples, "samples", 1), 100):  # so that memory is bounded
        drawn = row[rng.integers(len(row), size=(min(100, samples - first), len(row)))]
        found.append(drawn.mean(-1) if statistic is None else statistic(drawn))
    tail = (1 - _level(level)) / 2
    low, high = np.quantile(np.concatenate(found), (tail, 1 - tail))
    return float(low), float(high)


def paired(a: ArrayLike, b: ArrayLike, samples: int = 10_000, level: float = 0.95, seed: int = 0) -> Difference:
    """Two models on the same items: a bootstrap interval of the mean difference, and the p-value of a permutation test
    that swaps the two at random, (1 + #{|permuted| >= |seen|}) / (1 + samples)."""
    a, b = _row(a, "a"), _row(b, "b")
    if len(a) != len(b):
        raise UserError(f"the two have {len(a)} and {len(b)} items: give the same items in the same order")
    d, rng, extreme = a - b, np.random.default_rng(seed), 0
    seen = abs(d.mean()) * (1 - 1e-12)
    for first in range(0, samples, 100):
        signs = rng.integers(0, 2, (min(100, samples - first), len(d))) * 2 - 1
        extreme += int((np.abs((signs * d).mean(1)) >= seen).sum())
    low, high = bootstrap(d, min(samples, 2000), level, seed)
    return Difference(float(d.mean()), low, high, (1 + extreme) / (1 + samples))


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """The exact two-sided p-value of McNemar's test (1947): of right and wrong answers, whether the items that only one
    model has right divide evenly."""
    a, b = _row(a, "a"), _row(b, "b")
    if len(a) != len(b) or not np.isin(np.concatenate([a, b]), (0, 1)).all():
        raise UserError("McNemar's test takes two equally long rows of 0 and 1")
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    n, least = only_a + only_b, min(only_a, only_b)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(least + 1)) / 2**n)
