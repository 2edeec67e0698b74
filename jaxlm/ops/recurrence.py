"""What recurrences share: where texts begin, and a scan over chunks of positions that has its own gradient.

A recurrence that is linear in its state is computed for all positions of a chunk at once and from chunk to chunk one
after the other: time and memory are linear in T. The chunk's size is between its two extremes, one token at a time and
the whole row in parallel.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxlm.axes import Array


def marks(segments_BT: Array) -> tuple[Array, Array]:
    """Which tokens are no padding (segment 0), and which begin a text behind another one."""
    last_BT = lax.associative_scan(lambda a, b: jnp.where(b > 0, b, a), segments_BT, axis=1)
    before_BT = jnp.pad(last_BT[:, :-1], ((0, 0), (1, 0)))  # the newest text before each token; 0: none
    real_BT = segments_BT > 0
    return real_BT, real_BT & (before_BT > 0) & (before_BT != segments_BT)


def linear_scan(a_BC: Array, b_BC: Array, h_B: Array) -> Array:
    """All h_t = a_t h_(t-1) + b_t behind h, elementwise: an associative scan (Blelloch 1990) over axis 1."""

    def both(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        return first[0] * second[0], second[0] * first[1] + second[1]

    a_BC, b_BC = lax.associative_scan(both, (a_BC, b_BC), axis=1)
    return b_BC + a_BC * h_B[:, None]


def over_chunks(f: Callable, consts: Any, state: Any, xs: Any, fresh_BT: Array | None, chunk: int) -> tuple[Array, Any]:
    """y_BT... and the last state of `f(consts, state, xs, fresh_BC) -> state, y_BC...`, called for a chunk at a time.

    Trees of floating-point arrays: `xs` (B, T, ...); `state`, kept between chunks, and `consts` (B, ...), the same for
    all of them and of each row, so that their gradients are summed over rows once. The last chunk is filled up with
    zeros, at which `f` must leave the state as it is. The backward pass keeps the state before each chunk and computes
    the chunk again. `f` is a function of a module: closures would be compiled every time.
    """
    B, T = jax.tree.leaves(xs)[0].shape[:2]
    C = min(chunk, T)

    def split(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, -T % C), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(B, -1, C, *x.shape[2:]), 1, 0)

    fresh = None if fresh_BT is None else split(fresh_BT)
    out: Any = _scan(f, consts, state, jax.tree.map(split, xs), fresh)
    y, last = out
    y = jnp.moveaxis(y, 0, 1)
    return y.reshape(B, -1, *y.shape[3:])[:, :T], last


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(f, consts, state, xs, fresh):
    return _forward(f, consts, state, xs, fresh)[0]


def _forward(f, consts, state, xs, fresh):
    def step(state, at):
        new, y = f(consts, state, *at)
        return new, (y, state)

    last, (y, states) = lax.scan(step, state, (xs, fresh))
    y, states = checkpoint_name((y, states), "attention")  # as rematerialisation calls what mixers compute
    return (y, last), (consts, states, xs, fresh)


def _backward(f, saved, gradients):
    consts, states, xs, fresh = saved
    dy, dlast = gradients

    def step(carry, at):
        dconsts, dstate = carry
        x, fresh, state, dy = at
        _, pull = jax.vjp(lambda consts, state, x: f(consts, state, x, fresh), consts, state, x)
        more, dstate, dx = pull((dstate, dy))
        return (jax.tree.map(jnp.add, dconsts, more), dstate), dx

    start = jax.tree.map(jnp.zeros_like, consts), dlast
    (dconsts, dstate), dxs = lax.scan(step, start, (xs, fresh, states, dy), reverse=True)
    return dconsts, dstate, dxs, None


_scan.defvjp(_forward, _backward)
