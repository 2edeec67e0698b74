"""Samplers that cut a distribution by its entropy or by an absolute probability: typical, epsilon, eta, mirostat."""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxlm import arguments, sharding
from jaxlm.axes import Array
from jaxlm.decode.sampling import Choice, Sampler
from jaxlm.errors import UserError


@dataclasses.dataclass(frozen=True)
class Typical(Sampler):
    """Locally typical sampling: the tokens whose surprise is nearest to the entropy H, as many as have probability p
    together (Meister et al. 2022, arXiv:2202.00666).

    keep i where the sum of all p_j with |-log p_j - H| < |-log p_i - H| is below p
    """

    p: float
    neutral: ClassVar = {"p": 1.0}

    def __post_init__(self):
        object.__setattr__(self, "p", arguments.number(self.p, "typical p"))
        if not 0 < self.p <= 1:
            raise UserError(f"typical p must lie in (0, 1], got {self.p:g}")

    def filter(self, logits_BV: Array, state: Any) -> Array:
        logp_BV = jax.nn.log_softmax(logits_BV)
        far_BV = jnp.where(logits_BV > -jnp.inf, jnp.abs(-logp_BV - _entropy(logp_BV)), jnp.inf)
        sorted_BV, p_BV = jax.lax.sort((far_BV, jnp.exp(logp_BV)), num_keys=1)
        before_BV = jnp.cumsum(p_BV, -1) - p_BV
        farthest_B1 = jnp.max(jnp.where(before_BV < self.p, sorted_BV, 0.0), -1, keepdims=True)
        farthest_B1 = jnp.where(self.p >= 1, jnp.inf, farthest_B1)
        return jnp.where(far_BV <= farthest_B1, logits_BV, -jnp.inf)


@dataclasses.dataclass(frozen=True)
class Epsilon(Sampler):
    """Epsilon sampling: without tokens of a probability below epsilon (Hewitt et al. 2022, arXiv:2210.15191); the
    likeliest stays.

    keep i where p_i >= epsilon
    """

    epsilon: float
    neutral: ClassVar = {"epsilon": 0.0}

    def __post_init__(self):
        object.__setattr__(self, "epsilon", _fraction(self.epsilon, "epsilon"))

    def filter(self, logits_BV: Array, state: Any) -> Array:
        return _keep(logits_BV, jax.nn.softmax(logits_BV) >= self.epsilon)


@dataclasses.dataclass(frozen=True)
class Eta(Sampler):
    """Eta sampling: an epsilon that falls with the entropy H (Hewitt et al. 2022, arXiv:2210.15191); the likeliest
    stays.

    keep i where p_i >= min(epsilon, sqrt(epsilon) exp(-H))
    """

    epsilon: float
    neutral: ClassVar = {"epsilon": 0.0}

    def __post_init__(self):
        object.__setattr__(self, "epsilon", _fraction(self.epsilon, "eta's epsilon"))

    def filter(self, logits_BV: Array, state: Any) -> Array:
        logp_BV = jax.nn.log_softmax(logits_BV)
        least_B1 = jnp.minimum(self.epsilon, jnp.sqrt(self.epsilon) * jnp.exp(-_entropy(logp_BV)))
        return _keep(logits_BV, jnp.exp(logp_BV) >= least_B1)


@dataclasses.dataclass(frozen=True)
class Mirostat(Sampler):
    """Mirostat 2.0, which holds the surprise of chosen tokens at tau bits (Basu et al. 2020, arXiv:2007.14966). The
    last of a chain, since it learns from the draw.

    keep i where -log2 p_i <= mu, and the likeliest;   mu = 2 tau at first, then mu -= eta (-log2 q_y - tau),
    q_y being the probability with which y was drawn.
    """

    tau: float = 5.0
    eta: float = 0.1
    neutral: ClassVar = {"tau": math.inf, "eta": 0.1}

    def __post_init__(self):
        object.__setattr__(self, "tau", arguments.positive(self.tau, "mirostat's tau"))
        object.__setattr__(self, "eta", arguments.positive(self.eta, "mirostat's eta"))

    def start(self, prompt_BT: Array, mask_BT: Array, V: int) -> Any:
        """How far mu has fallen below 2 tau."""
        return sharding.constrain(jnp.zeros(len(prompt_BT), jnp.float32), "batch")

    def filter(self, logits_BV: Array, state: Any) -> Array:
        bits_BV = -jax.nn.log_softmax(logits_BV) / math.log(2)
        return _keep(logits_BV, bits_BV <= 2 * self.tau - state[:, None])

    def after(self, state: Any, choice: Choice) -> Any:
        assert choice.logprob_B is not None, "mirostat needs the probability of the draw"
        bits_B1 = -choice.logprob_B[:, None] / math.log(2)
        fallen_B1 = state[:, None] + self.eta * (bits_B1 - self.tau)
        return jnp.where(choice.token_B >= 0, fallen_B1[:, 0], state)


def _fraction(value: Any, name: str) -> float:
    found = arguments.number(value, name)
    if not 0 <= found < 1:
        raise UserError(f"{name} must lie in [0, 1), got {found:g}")
    return found


def _entropy(logp_BV: Array) -> Array:
    """(B, 1), in nats."""
    return -jnp.sum(jnp.where(logp_BV > -jnp.inf, jnp.exp(logp_BV) * logp_BV, 0.0), -1, keepdims=True)


def _keep(logits_BV: Array, mask_BV: Array) -> Array:
    likeliest_BV = logits_BV >= jnp.max(logits_BV, -1, keepdims=True)
    return jnp.where(mask_BV | likeliest_BV, logits_BV, -jnp.inf)
