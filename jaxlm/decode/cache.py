"""KV caches and recurrent states of all layers while decoding: values, made empty, written once a step, never mutated.

Every mixer's config says what it remembers (`init_cache`), in one of the kinds of `nn.state`: an attention that sees
everything has a slot for each token of the longest text, one with a window has S = window and its cache is a ring.
Caches have the layout of the model's parameters (see `nn.stack`): stacked with a leading axis of periods, or a tuple of
periods.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.errors import UserError
from jaxlm.models.lm import LMConfig
from jaxlm.nn.attention import AttentionConfig
from jaxlm.nn.state import State, is_state


def empty(config: LMConfig, B: int, length: int, dtype: Any, stacked: bool) -> tuple:
    """Caches for `B` rows of at most `length` tokens: 2 N G K itemsize bytes per token and layer without a window."""

    def group(c):
        period = lambda: tuple(block.init_cache(B, length, dtype) for block in c.blocks)
        if not stacked:
            return tuple(period() for _ in range(c.repeat))
        return each(lambda state: state.stacked(c.repeat), period())

    return tuple(group(c) for c in config.layers)


def in_int8(config: LMConfig) -> LMConfig:
    """The model with keys and values of earlier tokens in int8, 2 N G (K + 4) bytes a token and layer; attention of
    other kinds, such as MLA, and recurrences stay as they are. Raises UserError where no layer can."""

    def small(layer: Any) -> Any:
        change = {
            field.name: dataclasses.replace(part, cache="int8")
            for field in dataclasses.fields(layer)
            if isinstance(part := getattr(layer, field.name), AttentionConfig)
        }
        return dataclasses.replace(layer, **change)

    groups = tuple(dataclasses.replace(g, blocks=tuple(map(small, g.blocks))) for g in config.layers)
    if groups == config.layers:
        raise UserError("no layer of this model keeps plain keys and values, which alone may be in int8")
    return dataclasses.replace(config, layers=groups)


def write(caches: tuple, new: tuple, end: Array) -> tuple:
    """Caches with the states of new tokens written after `end` earlier ones, () or (B,), into every layer at once."""
    return each(lambda state, x: state.write(x, end), caches, new)


def take(caches: tuple, rows_A: Array) -> tuple:
    """Caches of these rows, in this order."""
    return each(lambda state: state.take(rows_A), caches)


def put(caches: tuple, other: tuple, rows_A: Array) -> tuple:
    """Caches with those of other texts, of as many slots, in place of these rows."""
    return each(lambda state, x: state.put(x, rows_A), caches, other)


def back(caches: tuple, n: int) -> tuple:
    """Caches to go on from when up to `n` of the newest tokens are dropped and `end` is lowered. Raises UserError
    where a layer cannot."""
    return each(lambda state: state.back(n), caches)


def each(f: Callable, caches: Any, *others: Any) -> Any:
    """f of every state, and of those in the same place of others."""
    return jax.tree.map(f, caches, *others, is_leaf=is_state)


def states(caches: Any) -> list[State]:
    """The state of every layer, in order."""
    return jax.tree.leaves(caches, is_leaf=is_state)


def nbytes(config: LMConfig, length: int, dtype: Any) -> int:
    """Bytes of cache for one text of `length` tokens."""
    with sharding.no_mesh():
        shapes = jax.eval_shape(lambda: empty(config, 1, length, jnp.dtype(dtype), stacked=True))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
