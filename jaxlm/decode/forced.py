"""Samplers that leave no choice: tokens that never come or not yet, those that are likelier by decree, and those with
which a text must begin and end."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxlm import arguments, sharding
from jaxlm.axes import Array
from jaxlm.decode.sampling import Choice, Sampler
from jaxlm.errors import UserError


@dataclasses.dataclass(frozen=True)
class Banned(Sampler):
    """Without these tokens: Marian's padding, which its head would choose."""

    tokens: tuple[int, ...]

    def __post_init__(self):
        ids = tuple(arguments.integer(i, "a banned token", 0) for i in self.tokens)
        object.__setattr__(self, "tokens", ids)

    def filter(self, logits_BV: Array, state: Any) -> Array:
        return jnp.where(_among(self.tokens, logits_BV), -jnp.inf, logits_BV)


@dataclasses.dataclass(frozen=True)
class Allowed(Sampler):
    """The tokens that the host says before each step: its state is their bits, uint32 (B, V / 32 rounded up), bit
    i of word i // 32 being token i's; at first all are (`constrained.allow` puts others in their place)."""

    def start(self, prompt_BT: Array, mask_BT: Array, V: int) -> Array:
        words_BW = jnp.full((len(prompt_BT), -(-V // 32)), 2**32 - 1, jnp.uint32)
        return sharding.constrain(words_BW, "batch", None)

    def filter(self, logits_BV: Array, state: Array) -> Array:
        (B, V), bits = logits_BV.shape, jnp.arange(32, dtype=jnp.uint32)[None, None]
        allowed_BV = ((state[:, :, None] >> bits) & 1).reshape(B, -1)[:, :V] > 0
        return jnp.where(allowed_BV, logits_BV, -jnp.inf)


@dataclasses.dataclass(frozen=True)
class MinLength(Sampler):
    """None of `tokens`, which end a text, before n tokens were chosen.

    exclude i in tokens where t < n, t tokens having been chosen
    """

    n: int
    tokens: tuple[int, ...]
    neutral: ClassVar = {"n": 0}

    def __post_init__(self):
        object.__setattr__(self, "n", arguments.integer(self.n, "the minimum length", 0))
        object.__setattr__(self, "tokens", tuple(arguments.integer(i, "an end token", 0) for i in self.tokens))

    def start(self, prompt_BT: Array, mask_BT: Array, V: int) -> Array:
        """How many tokens were chosen."""
        return sharding.constrain(jnp.zeros(len(prompt_BT), jnp.int32), "batch")

    def filter(self, logits_BV: Array, state: Array) -> Array:
        return jnp.where(_among(self.tokens, logits_BV) & (state[:, None] < self.n), -jnp.inf, logits_BV)

    def after(self, state: Array, choice: Choice) -> Array:
        return state + 1


@dataclasses.dataclass(frozen=True)
class LogitBias(Sampler):
    """Tokens made likelier or less likely, as (token, bias) pairs or a dict of them; -inf excludes one.

    z'_i = z_i + bias_i
    """

    biases: tuple[tuple[int, float], ...]

    def __post_init__(self):
        pairs = self.biases.items() if isinstance(self.biases, Mapping) else self.biases
        try:
            found = [(token, bias) for token, bias in pairs]
        except (TypeError, ValueError):
            raise UserError(
                f"logit biases must be pairs of a token and a number, got {arguments.kind(self.biases)}"
            ) from None
        ids = [arguments.integer(token, "the token of a logit bias", 0) for token, _ in found]
        values = [arguments.number(bias, "a logit bias") for _, bias in found]
        for value in values:
            if math.isnan(value) or value == math.inf:
                raise UserError(f"a logit bias must be a finite number or -inf, got {value:g}")
        object.__setattr__(self, "biases", tuple(sorted(dict(zip(ids, values)).items())))

    def start(self, prompt_BT: Array, mask_BT: Array, V: int) -> Array:
        """The bias of every token, (B, V)."""
        most = max((token for token, _ in self.biases), default=0)
        if most >= V:
            raise UserError(f"a logit bias is for token {most}, the vocabulary ends at {V - 1}")
        ids, values = jnp.array([i for i, _ in self.biases], int), jnp.array([v for _, v in self.biases], float)
        bias_V = jnp.zeros(V, jnp.float32).at[ids].set(values)
        return sharding.constrain(jnp.broadcast_to(bias_V[None], (len(prompt_BT), V)), "batch", None)

    def filter(self, logits_BV: Array, state: Array) -> Array:
        return logits_BV + state


def _among(tokens: tuple[int, ...], logits_BV: Array) -> Array:
    """Which ids are among the tokens, (1, V)."""
    ids_V = jnp.arange(logits_BV.shape[-1])
    return (ids_V[:, None] == jnp.array(tokens, jnp.int32)[None]).any(1)[None]


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
