"""Runs of a known law, with noise in the logarithm of the loss."""

import numpy as np

from jaxlm.scaling import Chinchilla, Runs

LAW = Chinchilla(E=1.7, A=300.0, B=900.0, alpha=0.32, beta=0.35)


def runs(law=LAW, noise: float = 0.0, seed: int = 0, budgets: int = 6, sizes: int = 9) -> Runs:
    """`sizes` models within a factor 5 of the best at each of `budgets` from 1e18 to 1e21."""
    flops = np.repeat(np.geomspace(1e18, 1e21, budgets), sizes)
    parameters = law.optimum(flops).parameters * np.tile(np.geomspace(1 / 5, 5, sizes), budgets)
    tokens = flops / (6 * parameters)
    drawn = np.random.default_rng(seed).normal(0, noise, len(flops))
    return Runs(parameters, tokens, law.loss(parameters, tokens) * np.exp(drawn))
