"""The past of every layer while decoding: a value, made empty, written once per step, never mutated.

Keys and values of attention are written into slots: token i goes to slot i mod S. A layer that sees everything has
S = the longest text, one with a window has S = window and its cache is a ring. A `Whole` state (of a recurrence) takes
the place of the one before. Caches have the layout of the model's parameters (see `nn.stack`): stacked with a leading
axis of periods, or a tuple of periods.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.models.lm import LMConfig
from jaxlm.nn.context import Whole


def empty(config: LMConfig, B: int, length: int, dtype: Any, stacked: bool) -> tuple:
    """Caches for `B` rows of at most `length` tokens: 2 N G K itemsize bytes per token and layer without a window."""

    def segment(c):
        period = lambda: tuple(block.empty_state(B, length, dtype) for block in c.blocks)
        if not stacked:
            return tuple(period() for _ in range(c.repeat))
        return jax.tree.map(lambda x: jnp.broadcast_to(x[None], (c.repeat, *x.shape)), period())

    return tuple(segment(c) for c in config.segments)


def write(caches: tuple, new: tuple, end: Array) -> tuple:
    """Caches with the states of new tokens written after `end` earlier ones, into every layer at once."""
    whole = lambda x: isinstance(x, Whole)
    one = lambda cache, x: x if whole(x) else _write(cache, x.astype(cache.dtype), end)
    return jax.tree.map(one, caches, new, is_leaf=whole)


def _write(cache: Array, new: Array, end: Array) -> Array:
    """(..., S, K) <- (..., T, K): the newest tokens that fit."""
    axis, S, T = cache.ndim - 2, cache.shape[-2], new.shape[-2]
    new = sharding.whole(new, axis)
    if T == 1:
        return lax.dynamic_update_slice_in_dim(cache, new, end % S, axis)
    last = end + T - 1
    token_S = last - (last - jnp.arange(S)) % S - end  # which of the new tokens a slot gets; negative: keep the old
    taken = jnp.take(new, jnp.clip(token_S, 0, T - 1), axis)
    # or-ed with zeros made like the cache, so that the mask lies on the mesh as the cache does
    fresh = (token_S >= 0).reshape((1,) * axis + (S, 1)) | jnp.zeros_like(cache, bool)
    return jnp.where(fresh, taken, cache)


def nbytes(config: LMConfig, length: int, dtype: Any) -> int:
    """Bytes of cache for one text of `length` tokens."""
    with sharding.no_mesh():
        shapes = jax.eval_shape(lambda: empty(config, 1, length, jnp.dtype(dtype), stacked=True))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
