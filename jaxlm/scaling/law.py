"""Laws of the loss after training N parameters on D tokens, and the sizes that they call optimal.

In this room N and D are parameters and tokens, as in the papers, not the axis letters. Constants may be arrays, one
entry a resample; everything broadcasts.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import numpy as np

Value = Any  # a float, or an array of them


class Allocation(NamedTuple):
    """A way to spend compute: a model of so many parameters, trained on so many tokens, and its loss."""

    parameters: Value
    tokens: Value
    loss: Value


class Law(Protocol):
    def loss(self, parameters: Value, tokens: Value) -> Value:
        """In nats per token."""
        ...

    def tokens(self, parameters: Value, loss: Value) -> Value:
        """How many a model of that size needs to reach `loss`; infinite where it never does."""
        ...

    def optimum(self, flops: Value) -> Allocation:
        """The lowest loss of all models with 6 N D = flops."""
        ...

    @property
    def exponent(self) -> Value:
        """a of N_opt ~ C^a; D_opt ~ C^(1 - a)."""
        ...


@dataclasses.dataclass(frozen=True)
class Chinchilla:
    """L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, arXiv:2203.15556, equation 2)."""

    E: Value
    A: Value
    B: Value
    alpha: Value
    beta: Value

    def loss(self, parameters: Value, tokens: Value) -> Value:
        return self.E + self.A * parameters**-self.alpha + self.B * tokens**-self.beta

    def tokens(self, parameters: Value, loss: Value) -> Value:
        return _root(loss - self.E - self.A * parameters**-self.alpha, self.B, self.beta)

    def optimum(self, flops: Value) -> Allocation:
        """N_opt = G (C / 6)^a, G = (alpha A / beta B)^(1 / (alpha + beta)) (the same, equation 4)."""
        G = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = G * (flops / 6) ** self.exponent
        return _allocate(self, parameters, flops)

    @property
    def exponent(self) -> Value:
        return self.beta / (self.alpha + self.beta)


@dataclasses.dataclass(frozen=True)
class Kaplan:
    """L(N, D) = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D (Kaplan et al. 2020, arXiv:2001.08361, eq. 1.5).

    The loss of natural text goes to zero here. The paper's N leaves embeddings out.
    """

    N_c: Value
    D_c: Value
    alpha_N: Value
    alpha_D: Value

    def loss(self, parameters: Value, tokens: Value) -> Value:
        return ((self.N_c / parameters) ** self._ratio + self.D_c / tokens) ** self.alpha_D

    def tokens(self, parameters: Value, loss: Value) -> Value:
        return _root(loss ** (1 / self.alpha_D) - (self.N_c / parameters) ** self._ratio, self.D_c, 1.0)

    def optimum(self, flops: Value) -> Allocation:
        """N_opt^(1 + r) = r N_c^r C / (6 D_c), r = alpha_N / alpha_D: where the derivative along 6 N D = C is zero."""
        r = self._ratio
        parameters = (r * self.N_c**r * flops / (6 * self.D_c)) ** self.exponent
        return _allocate(self, parameters, flops)

    @property
    def exponent(self) -> Value:
        return 1 / (1 + self._ratio)

    @property
    def _ratio(self) -> Value:
        return self.alpha_N / self.alpha_D


def _root(excess: Value, constant: Value, exponent: Value) -> Value:
    """D of constant / D^exponent = excess."""
    excess = np.asarray(excess, np.float64)
    return np.where(excess > 0, (constant / np.where(excess > 0, excess, 1.0)) ** (1 / exponent), np.inf)[()]


def _allocate(law: Law, parameters: Value, flops: Value) -> Allocation:
    tokens = flops / (6 * parameters)
    return Allocation(parameters, tokens, law.loss(parameters, tokens))


# Hoffmann et al.'s own constants, and those of Besiroglu et al. (2024, arXiv:2404.10102), whose fit to the points of
# their figure 4 agrees with the other two approaches where the first does not.
HOFFMANN = Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
BESIROGLU = Chinchilla(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
