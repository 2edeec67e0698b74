"""The shapes of law that can be fitted: log L as a differentiable function of free constants theta.

Each has `names` of the constants to print, `starts` for a search over these runs, `predict` (log loss and its
derivatives, for a batch of thetas at once) and `law` (theta as a law).
"""

import dataclasses
import itertools
from typing import Protocol

import numpy as np

from jaxlm.scaling.law import Chinchilla, Kaplan, Law
from jaxlm.scaling.runs import Runs

EXPONENTS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)  # where searches start


class Form(Protocol):
    @property
    def names(self) -> tuple[str, ...]: ...

    def starts(self, runs: Runs) -> np.ndarray:
        """(starts, constants)."""
        ...

    def predict(self, theta: np.ndarray, runs: Runs) -> tuple[np.ndarray, np.ndarray]:
        """theta (batch, constants) -> log loss (batch, runs) and its derivatives (batch, runs, constants)."""
        ...

    def law(self, theta: np.ndarray) -> Law:
        """theta (..., constants) as a law of arrays (...)."""
        ...


@dataclasses.dataclass(frozen=True)
class ChinchillaForm:
    """log L = logsumexp(log E, log A - alpha log N, log B - beta log D), theta = (log E, log A, log B, alpha, beta).

    With `tied` alpha = beta: the law of Gadre et al. (2024, arXiv:2403.08540), which at a constant ratio of tokens to
    parameters is a power law of compute. It wants fewer runs.
    """

    tied: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return ("E", "A", "B", "alpha", "beta")[: 4 if self.tied else 5]

    def starts(self, runs: Runs) -> np.ndarray:
        """For each pair of exponents the E, A and B of least squares, each kept from being nothing."""
        found = []
        for alpha, beta in itertools.product(EXPONENTS, repeat=2):
            if self.tied and alpha != beta:
                continue
            terms = np.stack([np.ones(len(runs)), runs.parameters**-alpha, runs.tokens**-beta], -1)
            scale = terms.mean(0)
            solved = np.linalg.lstsq(terms / scale / runs.loss[:, None], np.ones(len(runs)))[0]
            linear = np.log(np.maximum(solved, 0.01 * runs.loss.min())) - np.log(scale)
            found.append([*linear, alpha] if self.tied else [*linear, alpha, beta])
        return np.array(found)

    def predict(self, theta: np.ndarray, runs: Runs) -> tuple[np.ndarray, np.ndarray]:
        n, d = np.log(runs.parameters), np.log(runs.tokens)
        E, A, B, alpha = theta[:, :4].T[:, :, None]
        terms = np.stack(np.broadcast_arrays(E, A - alpha * n, B - theta[:, -1:] * d), -1)
        log_loss, shares = _logsumexp(terms)
        by_alpha, by_beta = -shares[..., 1] * n, -shares[..., 2] * d
        slopes = (by_alpha + by_beta)[..., None] if self.tied else np.stack([by_alpha, by_beta], -1)
        return log_loss, np.concatenate([shares, slopes], -1)

    def law(self, theta: np.ndarray) -> Chinchilla:
        with np.errstate(over="ignore"):  # a resample that knows no bound
            E, A, B = np.exp(np.moveaxis(theta[..., :3], -1, 0))
        return Chinchilla(E, A, B, theta[..., 3][()], theta[..., -1][()])


@dataclasses.dataclass(frozen=True)
class KaplanForm:
    """log L = alpha_D logsumexp(r (log N_c - log N), log D_c - log D), theta = (log N_c, log D_c, alpha_N, alpha_D)."""

    names: tuple[str, ...] = ("N_c", "D_c", "alpha_N", "alpha_D")

    def starts(self, runs: Runs) -> np.ndarray:
        """For each pair of exponents the N_c and D_c with which either term alone would make half of each loss."""
        found = []
        for alpha_N, alpha_D in itertools.product((0.03, 0.06, 0.1, 0.2, 0.4), repeat=2):
            half = np.log(runs.loss) / alpha_D - np.log(2)
            N_c = np.mean(np.log(runs.parameters) + half * alpha_D / alpha_N)
            found.append([N_c, np.mean(np.log(runs.tokens) + half), alpha_N, alpha_D])
        return np.array(found)

    def predict(self, theta: np.ndarray, runs: Runs) -> tuple[np.ndarray, np.ndarray]:
        N_c, D_c, alpha_N, alpha_D = theta.T[:, :, None]
        n, d = N_c - np.log(runs.parameters), D_c - np.log(runs.tokens)
        total, shares = _logsumexp(np.stack(np.broadcast_arrays(alpha_N / alpha_D * n, d), -1))
        by_n, by_d = shares[..., 0], shares[..., 1]
        slopes = (by_n * alpha_N, by_d * alpha_D, by_n * n, total - by_n * n * alpha_N / alpha_D)
        return alpha_D * total, np.stack(slopes, -1)

    def law(self, theta: np.ndarray) -> Kaplan:
        with np.errstate(over="ignore"):
            N_c, D_c = np.exp(np.moveaxis(theta[..., :2], -1, 0))
        return Kaplan(N_c, D_c, theta[..., 2][()], theta[..., 3][()])


def _logsumexp(terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over the last axis, and each term's share of the sum."""
    top = terms.max(-1, keepdims=True)
    powers = np.exp(terms - top)
    total = powers.sum(-1, keepdims=True)
    return (top + np.log(total))[..., 0], powers / total
