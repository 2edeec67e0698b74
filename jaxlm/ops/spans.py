"""Spans of a text at random: which tokens they cover, and the text with a mark in place of each.

All counts follow from the length alone, so that shapes are known before anything is drawn.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.axes import Array


def counts(T: int, rate: float, mean: float) -> tuple[int, int]:
    """How many of T tokens are in spans, and in how many, of `mean` tokens on average: at least one each, and as many
    tokens outside as there are spans. T is at least 2."""
    noise = min(max(round(T * rate), 1), T - 1)
    return noise, min(max(round(noise / mean), 1), noise, T - noise)


def cut(key: Array, n: int, parts: int) -> Array:
    """Lengths (parts,), each at least 1, of a random cut of n into parts, all cuts alike."""
    first_n = jnp.concatenate([jnp.zeros(1, int), jax.random.permutation(key, jnp.arange(n - 1) < parts - 1)])
    part_n = jnp.cumsum(first_n)
    return jnp.sum(part_n[None] == jnp.arange(parts)[:, None], 1)


def random_spans(key: Array, T: int, rate: float, mean: float) -> Array:
    """Where a text's spans lie, bool (T,): it begins outside of one and ends in one (T5; Raffel et al. 2019,
    arXiv:1910.10683, 3.1.4)."""
    noise, parts = counts(T, rate, mean)
    inside, outside = jax.random.split(key)
    lengths = jnp.stack([cut(outside, T - noise, parts), cut(inside, noise, parts)], 1).reshape(-1)
    return jnp.searchsorted(jnp.cumsum(lengths), jnp.arange(T), side="right") % 2 == 1


def replaced(tokens_T: Array, span_T: Array, marks_P: Array, length: int) -> Array:
    """The first `length` tokens of the text with the mark of its number in place of each of its spans."""
    first_T = span_T & ~jnp.pad(span_T, (1, 0))[:-1]
    number_T = jnp.clip(jnp.cumsum(first_T) - 1, 0, len(marks_P) - 1)
    marked_T = jnp.where(first_T, marks_P[number_T], tokens_T)
    order_T = jnp.argsort(span_T & ~first_T, stable=True)  # what stays comes first
    return marked_T[order_T][:length]


def infilled(key: Array, tokens_T: Array, mask: int, rate: float, mean: float) -> tuple[Array, Array]:
    """Text infilling (BART; Lewis et al. 2019, arXiv:1910.13461, 2.2): a text of which round(T rate) tokens are cut out
    in spans, one `mask` in place of each. Lengths are of a Poisson distribution, the last as long as the share allows;
    of a span of none the mask is put in. Spans lie anywhere, next to each other too.

    Returns tokens (T + 1,), and how many of them are the text; the others mean nothing.
    """
    T = len(tokens_T)
    noise, _ = counts(T, rate, 1.0)
    P, kept = noise + 1, T - noise  # spans at most
    size, place = jax.random.split(key)
    below = np.cumsum([math.exp(i * math.log(mean) - mean - math.lgamma(i + 1)) for i in range(noise + 1)])
    drawn_P = jnp.searchsorted(jnp.asarray(below, jnp.float32), jax.random.uniform(size, (P,)), side="right")
    drawn_P = drawn_P.at[-1].set(noise)
    before_P = jnp.cumsum(drawn_P) - drawn_P
    length_P = jnp.minimum(drawn_P, noise - before_P)
    is_there_P = before_P < noise
    # Spans and the tokens that stay, in any order alike; spans that are not there come last.
    chance = jax.random.uniform(place, (kept + P,))
    chance = chance.at[kept:].set(jnp.where(is_there_P, chance[kept:], 2.0))
    item = jnp.argsort(chance)
    taken = jnp.concatenate([jnp.ones(kept, int), jnp.where(is_there_P, length_P, 0)])[item]
    start = jnp.minimum(jnp.cumsum(taken) - taken, T - 1)
    return jnp.where(item < kept, tokens_T[start], mask), kept + is_there_P.sum()


def permuted(key: Array, tokens_T: Array, ends_E: Array) -> Array:
    """The text's sentences in any order (sentence permutation, ibid.); each ends with one of the tokens `ends_E`."""
    last_T = (tokens_T[:, None] == ends_E[None]).any(1)
    number_T = jnp.cumsum(last_T) - last_T
    return tokens_T[jnp.argsort(jax.random.permutation(key, len(tokens_T))[number_T], stable=True)]
