"""An arena: ratings of models from battles between two of them (Chiang et al. 2024, arXiv:2403.04132).

Bradley-Terry's model says P(a beats b) = 1 / (1 + 10^((R_b - R_a) / 400)); its ratings are those of greatest
likelihood, ties half a win. Their intervals come from the sandwich H^-1 B H^-1, which holds where the model does not,
or from the bootstrap. Style control adds what answers look like: theta_a - theta_b + gamma . style.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from jaxlm import arguments, picture
from jaxlm.errors import UserError
from jaxlm.evals.rows import rows

SCALE, OFFSET, RIDGE = 400 / math.log(10), 1000.0, 1e-5
OUTCOMES = {"a": 1.0, "b": 0.0, "tie": 0.5, "model_a": 1.0, "model_b": 0.0, "tie (bothbad)": 0.5, "both_bad": 0.5}


@dataclasses.dataclass(frozen=True)
class Battle:
    """`score` is 1 where a won, 0 where b did, .5 of a tie; `style` are features of a's and b's answers."""

    a: str
    b: str
    score: float
    style: tuple[Mapping[str, float], Mapping[str, float]] | None = None


@dataclasses.dataclass(frozen=True)
class Rating:
    model: str
    rating: float
    low: float
    high: float
    rank: int  # 1 + how many models lie surely above
    battles: int


@dataclasses.dataclass(frozen=True)
class Ratings:
    rows: tuple[Rating, ...]
    style: dict[str, float]  # gamma of each feature, by its standard deviation

    def __getitem__(self, model: str) -> Rating:
        return next(row for row in self.rows if row.model == model)

    def table(self) -> str:
        wide = max(len(row.model) for row in self.rows)
        line = lambda r: f"{r.rank:4}  {r.model:{wide}}  {r.rating:7.1f}  {r.low:7.1f} .. {r.high:7.1f}  {r.battles}"
        return "\n".join([f"rank  {'model':{wide}}   rating  95 % interval       battles", *map(line, self.rows)])


def read_battles(path: str | Path) -> list[Battle]:
    """Rows with model_a, model_b and winner: "a", "b" or "tie", or the published spellings of these."""
    found = []
    for row in rows(path):
        a, b, winner = row.need("model_a", "a"), row.need("model_b", "b"), row.need("winner")
        if winner not in OUTCOMES and winner not in (a, b):
            raise UserError(f"{row.place}: 'winner' is {winner!r}, not one of a, b and tie")
        if a == b:
            raise UserError(f"{row.place}: two models have one name, {a!r}")
        found.append(Battle(a, b, OUTCOMES.get(winner, float(winner == a))))
    return found


def style(text: str) -> dict[str, float]:
    """What an answer looks like: length in words, headers, list items and bold parts of its markdown."""
    lines = text.splitlines()
    return {
        "length": float(len(text.split())),
        "headers": float(sum(line.lstrip().startswith("#") for line in lines)),
        "lists": float(sum(line.lstrip()[:2] in ("- ", "* ") or line.lstrip()[:1].isdigit() for line in lines)),
        "bold": float(text.count("**") // 2),
    }


def connected(battles: Sequence[Battle]) -> list[list[str]]:
    """The groups of models of which each beats (or ties) every other through some chain: ratings exist within one."""
    models = sorted({name for one in battles for name in (one.a, one.b)})
    beats: dict[str, set[str]] = {name: set() for name in models}
    for one in battles:
        if one.score > 0:
            beats[one.a].add(one.b)
        if one.score < 1:
            beats[one.b].add(one.a)

    def reached(start: str) -> set[str]:
        seen, todo = {start}, [start]
        while todo:
            new = beats[todo.pop()] - seen
            seen |= new
            todo += new
        return seen

    below, groups = {name: reached(name) for name in models}, []
    for name in models:
        if not any(name in group for group in groups):
            groups.append([other for other in models if other in below[name] and name in below[other]])
    return groups


def _design(battles: Sequence[Battle], names: Sequence[str], features: Sequence[str]) -> tuple[Any, Any]:
    """x (N, models + features) and y (N,): +1 at a, -1 at b; of a feature (a - b) / (a + b), by its deviation."""
    at = {name: i for i, name in enumerate(names)}
    x = np.zeros((len(battles), len(names) + len(features)))
    for i, one in enumerate(battles):
        x[i, at[one.a]], x[i, at[one.b]] = 1, -1
        for j, feature in enumerate(features, len(names)):
            if one.style is None:
                raise UserError("style control needs the style of every battle's answers")
            p, q = (side[feature] for side in one.style)
            x[i, j] = (p - q) / (p + q) if p + q else 0.0
    deviation = x[:, len(names) :].std(0)
    x[:, len(names) :] /= np.where(deviation > 0, deviation, 1)
    return x, np.array([one.score for one in battles])


def _fit(x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Newton's steps of the logistic likelihood with a small ridge, which centres the ratings; and its Hessian."""
    theta, w = np.zeros(x.shape[1]), np.ones(len(y)) if weight is None else weight
    hessian = np.eye(len(theta))
    for _ in range(100):
        p = 1 / (1 + np.exp(-x @ theta))
        hessian = (x * (w * p * (1 - p))[:, None]).T @ x + RIDGE * np.eye(len(theta))
        step = np.linalg.solve(hessian, x.T @ (w * (y - p)) - RIDGE * theta)
        theta += step * min(1.0, 5 / max(1e-12, float(np.abs(step).max())))  # far from the end a step may overshoot
        if np.abs(step).max() < 1e-10:
            break
    return theta, hessian


def bradley_terry(
    battles: Sequence[Battle],
    features: Sequence[str] = (),
    intervals: str = "sandwich",
    samples: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> Ratings:
    """Ratings by maximum likelihood, their mean 1000. `features` of `Battle.style` are controlled for.

    Raises UserError where the battles do not connect all models: then some ratings would be infinite.
    """
    if not battles:
        raise UserError("there are no battles")
    if intervals not in ("sandwich", "bootstrap"):
        raise UserError(f'intervals are "sandwich" or "bootstrap", not {intervals!r}')
    if len(groups := connected(battles)) > 1:
        told = "; ".join(", ".join(group) for group in groups[:4])
        raise UserError(
            f"the battles do not connect the models: {len(groups)} groups ({told}): ratings need more of them"
        )
    names = sorted({name for one in battles for name in (one.a, one.b)})
    x, y = _design(battles, names, features)
    theta, hessian = _fit(x, y)
    n, z = len(names), NormalDist().inv_cdf((1 + level) / 2)
    centre = np.eye(len(theta))
    centre[:n, :n] -= 1 / n
    theta = centre @ theta
    if intervals == "sandwich":
        scores = x * (y - 1 / (1 + np.exp(-x @ theta)))[:, None]
        inverse = np.linalg.inv(hessian)
        covariance = centre @ inverse @ (scores.T @ scores) @ inverse @ centre.T
        error = z * np.sqrt(np.maximum(np.diag(covariance), 0))
        low, high = theta - error, theta + error
    else:
        rng = np.random.default_rng(seed)
        drawn = [centre @ _fit(x, y, rng.multinomial(len(y), np.full(len(y), 1 / len(y))))[0] for _ in range(samples)]
        low, high = np.quantile(drawn, ((1 - level) / 2, (1 + level) / 2), axis=0)
    count = {name: sum(name in (one.a, one.b) for one in battles) for name in names}
    rank = [1 + int((low[:n] > high[i]).sum()) for i in range(n)]
    r = lambda t: OFFSET + SCALE * float(t)
    found = [Rating(m, r(theta[i]), r(low[i]), r(high[i]), rank[i], count[m]) for i, m in enumerate(names)]
    return Ratings(tuple(sorted(found, key=lambda row: -row.rating)), dict(zip(features, theta[n:].tolist())))


def elo(battles: Sequence[Battle], k: float = 4.0, start: float = 1000.0) -> dict[str, float]:
    """Elo's ratings, battle by battle in their order: R += k (score - expected)."""
    arguments.positive(k, "k")
    found: dict[str, float] = {}
    for one in battles:
        a, b = found.get(one.a, start), found.get(one.b, start)
        change = k * (one.score - 1 / (1 + 10 ** ((b - a) / 400)))
        found[one.a], found[one.b] = a + change, b - change
    return found


def plot_ratings(ratings: Ratings, path: str | Path) -> None:
    """Ratings with their intervals, best on top."""
    listed = ratings.rows[::-1]
    figure, axes = picture.blank(6, 1.2 + 0.3 * len(listed))
    middle = np.array([row.rating for row in listed])
    error = np.array([[row.rating - row.low for row in listed], [row.high - row.rating for row in listed]])
    axes.errorbar(middle, range(len(listed)), xerr=np.maximum(error, 0), fmt="o", color=picture.BLUE, capsize=3)
    axes.set_yticks(range(len(listed)), [row.model for row in listed], fontsize=8)
    picture.dress(axes, "Ratings of the arena", "rating, 95 % interval", "")
    picture.save(figure, path)
