"""Samplers that leave no choice: tokens that never come, and those with which a text must begin and end."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from jaxlm import arguments, sharding
from jaxlm.axes import Array
from jaxlm.decode.sampling import Choice, Sampler


@dataclasses.dataclass(frozen=True)
class Banned(Sampler):
    """Without these tokens: Marian's padding, which its head would choose."""

    tokens: tuple[int, ...]

    def __post_init__(self):
        ids = tuple(arguments.integer(i, "a banned token", 0) for i in self.tokens)
        object.__setattr__(self, "tokens", ids)

    def filter(self, logits_BV: Array, state: Any) -> Array:
        ids_V = jnp.arange(logits_BV.shape[-1])
        banned_V = (ids_V[:, None] == jnp.array(self.tokens, jnp.int32)[None]).any(1)
        return jnp.where(banned_V[None], -jnp.inf, logits_BV)


@dataclasses.dataclass(frozen=True)
class Forced(Sampler):
    """The first new token is `first` (a language's, of mBART), and the one at place `length` is `last` (BART's end).

    A forced token has logit 0, all others none: in beam search it costs nothing, as in transformers.
    """

    first: int | None = None
    last: int | None = None
    length: int = 0  # new tokens of the longest text

    def start(self, prompt_BT: Array, mask_BT: Array, V: int) -> Array:
        """How many tokens were chosen."""
        return sharding.constrain(jnp.zeros(len(prompt_BT), jnp.int32), "batch")

    def filter(self, logits_BV: Array, state: Array) -> Array:
        ids_1V = jnp.arange(logits_BV.shape[-1])[None]
        for token, place in ((self.first, 0), (self.last, self.length - 1)):
            if token is not None:
                forced_BV = jnp.where(ids_1V == token, 0.0, -jnp.inf)
                logits_BV = jnp.where((state == place)[:, None], forced_BV, logits_BV)
        return logits_BV

    def after(self, state: Array, choice: Choice) -> Array:
        return state + 1
