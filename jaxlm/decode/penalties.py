"""Samplers that remember what a row has said."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxlm import arguments, sharding
from jaxlm.axes import Array
from jaxlm.decode.sampling import Choice, Sampler
from jaxlm.errors import UserError


@dataclasses.dataclass(frozen=True)
class RepetitionPenalty(Sampler):
    """Repetition penalty of tokens that stand in the prompt or were chosen (Keskar et al. 2019, arXiv:1909.05858):

        z'_i = z_i / p where z_i > 0, else z_i p

    Above 1 they become less likely, below 1 more; how often a token was said is all one.
    """

    p: float
    neutral: ClassVar = {"p": 1.0}

    def __post_init__(self):
        object.__setattr__(self, "p", arguments.number(self.p, "repetition penalty"))
        if not 0 < self.p < math.inf:
            raise UserError(f"repetition penalty must be above 0 (1 is none), got {self.p:g}")

    def start(self, prompt_BT: Array, mask_BT: Array, V: int) -> Array:
        """Which tokens were said, bool (B, V)."""
        said = lambda ids_T: jnp.zeros(V, bool).at[ids_T].set(True, mode="drop")
        seen_BV = jax.vmap(said)(jnp.where(mask_BT > 0, prompt_BT, V))
        return sharding.constrain(seen_BV, "batch", None)

    def filter(self, logits_BV: Array, state: Array) -> Array:
        return jnp.where(state, jnp.where(logits_BV > 0, logits_BV / self.p, logits_BV * self.p), logits_BV)

    def after(self, state: Array, choice: Choice) -> Array:
        return state | (jnp.arange(state.shape[1])[None] == choice.token_B[:, None])


@dataclasses.dataclass(frozen=True)
class CountPenalty(Sampler):
    """OpenAI's presence and frequency penalties of chosen tokens, c_i times each; the prompt does not count.

    z'_i = z_i - presence [c_i > 0] - frequency c_i
    """

    presence: float = 0.0
    frequency: float = 0.0
    neutral: ClassVar = {"presence": 0.0, "frequency": 0.0}

    def __post_init__(self):
        for name in self.neutral:
            value = arguments.number(getattr(self, name), f"{name} penalty")
            if not math.isfinite(value):
                raise UserError(f"{name} penalty must be a finite number (0 is none), got {value:g}")
            object.__setattr__(self, name, value)

    def start(self, prompt_BT: Array, mask_BT: Array, V: int) -> Array:
        """How often each token was chosen, int32 (B, V)."""
        return sharding.constrain(jnp.zeros((len(prompt_BT), V), jnp.int32), "batch", None)

    def filter(self, logits_BV: Array, state: Array) -> Array:
        return logits_BV - self.presence * (state > 0) - self.frequency * state

    def after(self, state: Array, choice: Choice) -> Array:
        return state + (jnp.arange(state.shape[1])[None] == choice.token_B[:, None])


@dataclasses.dataclass(frozen=True)
class NoRepeatNgram(Sampler):
    """No n-gram twice (Paulus et al. 2017, arXiv:1705.04304), prompt included, within the newest `last` tokens.

    exclude i where y_{t-n+1} .. y_{t-1} i stands in y_{t-last} .. y_{t-1}
    """

    n: int
    last: int = 2048

    def __post_init__(self):
        object.__setattr__(self, "n", arguments.integer(self.n, "n of no-repeat n-grams", 1))
        object.__setattr__(self, "last", arguments.integer(self.last, "last of no-repeat n-grams", self.n))

    def start(self, prompt_BT: Array, mask_BT: Array, V: int) -> Array:
        """The newest tokens, (B, last), -1 where there are none."""
        said_BT = jnp.where(mask_BT > 0, prompt_BT, -1)[:, -self.last :]
        left = self.last - said_BT.shape[1]
        said_BT = jnp.pad(said_BT, ((0, 0), (left, 0)), constant_values=-1)
        return sharding.constrain(said_BT.astype(jnp.int32), "batch", None)

    def filter(self, logits_BV: Array, state: Array) -> Array:
        n, S = self.n - 1, self.last - self.n + 1
        begins = [state[:, i : i + S] == state[:, self.last - n + i, None] for i in range(n)]
        follows_BS = jnp.where(jnp.all(jnp.stack([state[:, n:] >= 0, *begins]), 0), state[:, n:], logits_BV.shape[1])
        ban = lambda logits_V, ids_S: logits_V.at[ids_S].set(-jnp.inf, mode="drop")
        return jax.vmap(ban)(logits_BV, follows_BS)

    def after(self, state: Array, choice: Choice) -> Array:
        shifted = jnp.concatenate([state[:, 1:], choice.token_B[:, None].astype(jnp.int32)], 1)
        return jnp.where(choice.token_B[:, None] >= 0, shifted, state)
