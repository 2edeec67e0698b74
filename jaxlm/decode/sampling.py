"""Samplers, which choose the next token: small frozen objects that compose.

    Greedy()    Temperature(0.8)    TopK(50)    TopP(0.9)    MinP(0.05)    Temperature(0.8) | TopK(50) | TopP(0.9)

Each maps logits (B, V) to logits with what it excludes at -inf; the token is drawn from what is left. In a chain the
left one comes first, and the last one draws (`in_order` puts them in the order of the field). A token that another
excluded stays excluded. They are hashable, so they may be static arguments of a jitted function. What one remembers of
each row goes round the loop beside it, and so may the numbers of each row: see `PerRow`.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from jaxlm import arguments
from jaxlm.axes import Array
from jaxlm.errors import UserError


@struct.dataclass
class Choice:
    """The next token of every row, -1 (as `after` sees it) where the row has stopped."""

    token_B: Array
    logprob_B: Array | None = None  # of each, in the distribution that it was drawn from


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws from the model's own distribution; the base of all others.

    `neutral` are the numbers that may differ by row (`PerRow`), with values at which they change nothing. `filter` may
    find them as arrays (B, 1); `start` does not depend on them.
    """

    neutral: ClassVar[dict[str, float]] = {}

    def start(self, prompt_BT: Array, mask_BT: Array, V: int) -> Any:
        """What is remembered of the prompts, of which `mask_BT` is 1 on real tokens: a tree of arrays of B rows."""
        return ()

    def filter(self, logits_BV: Array, state: Any) -> Array:
        """The logits that are drawn from."""
        return logits_BV

    def choose(self, logits_BV: Array, state: Any, key: Array) -> Choice:
        """Draw from what is left. `key` may be one of each row: then a row's tokens depend on no other row."""
        logits_BV = self.filter(logits_BV, state)
        draw = jax.random.categorical if key.shape == () or not _typed(key) else jax.vmap(jax.random.categorical)
        return picked(logits_BV, draw(key, logits_BV))

    def after(self, state: Any, choice: Choice) -> Any:
        """What is remembered once these tokens are chosen, of the same shapes."""
        return state

    def __or__(self, other: "Sampler") -> "Sampler":
        return Chain((*links(self), *links(other)))


def _typed(key: Array) -> bool:
    return jnp.issubdtype(key.dtype, jax.dtypes.prng_key)


def picked(logits_BV: Array, token_B: Array) -> Choice:
    """The choice of these tokens from these logits."""
    mine_BV = jnp.arange(logits_BV.shape[-1])[None] == token_B[:, None]
    logit_B = jnp.max(jnp.where(mine_BV, logits_BV, -jnp.inf), -1)
    return Choice(token_B, logit_B - jax.nn.logsumexp(logits_BV, -1))


@dataclasses.dataclass(frozen=True)
class Chain(Sampler):
    """What `|` makes: one after the other. Its state is the tuple of theirs."""

    samplers: tuple[Sampler, ...]

    def __post_init__(self):
        given = self.samplers if isinstance(self.samplers, tuple | list) else (self.samplers,)
        object.__setattr__(self, "samplers", tuple(map(checked, given)) or (Sampler(),))

    def start(self, prompt_BT: Array, mask_BT: Array, V: int) -> tuple:
        return tuple(sampler.start(prompt_BT, mask_BT, V) for sampler in self.samplers)

    def filter(self, logits_BV: Array, state: tuple) -> Array:
        for sampler, own in zip(self.samplers, state, strict=True):
            logits_BV = sampler.filter(logits_BV, own)
        return logits_BV

    def choose(self, logits_BV: Array, state: tuple, key: Array) -> Choice:
        (*before, last), (*states, own) = self.samplers, state
        for sampler, one in zip(before, states, strict=True):
            logits_BV = sampler.filter(logits_BV, one)
        return last.choose(logits_BV, own, key)

    def after(self, state: tuple, choice: Choice) -> tuple:
        return tuple(sampler.after(own, choice) for sampler, own in zip(self.samplers, state, strict=True))


def links(sampler: Sampler) -> tuple[Sampler, ...]:
    """The samplers of a chain, in order, or the one that is no chain."""
    return sampler.samplers if isinstance(sampler, Chain) else (checked(sampler),)


@dataclasses.dataclass(frozen=True)
class Search(Sampler):
    """The base of those that look further than the next token: each has a loop of its own, and is the last of a chain,
    whose samplers before it filter what it looks at."""

    what: ClassVar[str] = "a search"

    def choose(self, logits_BV: Array, state: Any, key: Array) -> Choice:
        raise UserError(f"{self.what} chooses by whole texts, not a token at a time: give it to generate")


def parted(sampler: Sampler) -> tuple[Sampler, Search | None]:
    """What filters, and the search that chooses, if there is one. Raises UserError for one that is not the last."""
    *before, last = links(sampler)
    for one in before:
        if isinstance(one, Search):
            raise UserError(f"{one.what} chooses the tokens: put {type(one).__name__} last in a chain of samplers")
    return (Chain(tuple(before)), last) if isinstance(last, Search) else (sampler, None)


def checked(sampler: Sampler) -> Sampler:
    if not isinstance(sampler, Sampler):
        raise UserError(
            f"a sampler must be one of jaxlm's, such as Greedy() or Temperature(0.8), got {arguments.kind(sampler)}"
        )
    return sampler


@dataclasses.dataclass(frozen=True)
class VocabularyMask(Sampler):
    """The first n tokens: a model may have more rows than its tokenizer has tokens."""

    n: int

    def __post_init__(self):
        object.__setattr__(self, "n", arguments.integer(self.n, "n of VocabularyMask", 1))

    def filter(self, logits_BV: Array, state: Any) -> Array:
        return jnp.where(jnp.arange(logits_BV.shape[-1])[None] < self.n, logits_BV, -jnp.inf)


def within(sampler: Sampler, tokens: int, V: int) -> Sampler:
    """The sampler kept to the first `tokens` ids, where the model has more (V): those that its tokenizer has."""
    return VocabularyMask(tokens) | sampler if tokens < V else checked(sampler)


@dataclasses.dataclass(frozen=True)
class Greedy(Sampler):
    """Greedy decoding: the most likely token; the smallest id among equals."""

    def filter(self, logits_BV: Array, state: Any) -> Array:
        best_B1 = jnp.argmax(logits_BV, -1, keepdims=True)
        return jnp.where(jnp.arange(logits_BV.shape[-1])[None] == best_B1, logits_BV, -jnp.inf)

    def choose(self, logits_BV: Array, state: Any, key: Array) -> Choice:
        token_B = jnp.argmax(logits_BV, -1)
        return Choice(token_B, jnp.zeros_like(token_B, jnp.float32))


@dataclasses.dataclass(frozen=True)
class Temperature(Sampler):
    """Temperature sampling: below 1 sharper, above 1 flatter.

    z' = z / t
    """

    t: float = 1.0
    neutral: ClassVar = {"t": 1.0}

    def __post_init__(self):
        object.__setattr__(self, "t", arguments.number(self.t, "temperature"))  # plain: it is hashed
        if not 1e-30 < self.t < math.inf:  # logits beyond float32 would become NaN
            raise UserError(f"temperature must be above 0, got {self.t:g} (for the most likely token use Greedy)")

    def filter(self, logits_BV: Array, state: Any) -> Array:
        return logits_BV / self.t


@dataclasses.dataclass(frozen=True)
class TopK(Sampler):
    """Top-k sampling: the k most likely tokens (Fan et al. 2018, arXiv:1805.04833), and those equal to the k-th.

    keep i where z_i >= z_(k), z_(1) >= z_(2) >= ... the logits in order
    """

    k: int
    neutral: ClassVar = {"k": 2**30}

    def __post_init__(self):
        k = arguments.number(self.k, "top-k")
        if not k >= 1 or k % 1:
            raise UserError(f"top-k must be a whole number of at least 1, got {k:g}")
        object.__setattr__(self, "k", int(k))

    def filter(self, logits_BV: Array, state: Any) -> Array:
        V = logits_BV.shape[-1]
        if isinstance(self.k, int):
            kth_B1 = jax.lax.top_k(logits_BV, min(self.k, V))[0][:, -1:]
        else:
            sorted_BV = jnp.sort(logits_BV, -1, descending=True)
            kth_B1 = jnp.take_along_axis(sorted_BV, jnp.clip(self.k, 1, V) - 1, 1)
        return jnp.where(logits_BV >= kth_B1, logits_BV, -jnp.inf)


@dataclasses.dataclass(frozen=True)
class TopP(Sampler):
    """Top-p (nucleus) sampling: the fewest most likely tokens that together have probability of at least p
    (Holtzman et al. 2019, arXiv:1904.09751); those equal to the last of them stay too.

    keep i where the sum of all p_j > p_i is below p
    """

    p: float
    neutral: ClassVar = {"p": 1.0}

    def __post_init__(self):
        object.__setattr__(self, "p", arguments.number(self.p, "top-p"))
        if not 0 < self.p <= 1:
            raise UserError(f"top-p must lie in (0, 1], got {self.p:g}")

    def filter(self, logits_BV: Array, state: Any) -> Array:
        sorted_BV = jnp.sort(logits_BV, -1, descending=True)
        p_BV = jax.nn.softmax(sorted_BV, -1)
        before_BV = jnp.cumsum(p_BV, -1) - p_BV  # probability of all likelier ones: 0 for the first, which stays
        least_B1 = jnp.min(jnp.where(before_BV < self.p, sorted_BV, jnp.inf), -1, keepdims=True)
        least_B1 = jnp.where(self.p >= 1, -jnp.inf, least_B1)  # rounding would cut the tail
        return jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)


@dataclasses.dataclass(frozen=True)
class MinP(Sampler):
    """Min-p sampling: tokens at least p times as likely as the likeliest (Nguyen et al. 2024, arXiv:2407.01082).

    keep i where p_i >= p max_j p_j
    """

    p: float
    neutral: ClassVar = {"p": 0.0}

    def __post_init__(self):
        object.__setattr__(self, "p", arguments.number(self.p, "min-p"))
        if not 0 <= self.p <= 1:
            raise UserError(f"min-p must lie in [0, 1], got {self.p:g}")

    def filter(self, logits_BV: Array, state: Any) -> Array:
        least_B1 = jnp.max(logits_BV, -1, keepdims=True) + jnp.log(self.p)
        return jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)
