"""A diagonal recurrence, h_t = a_t h_(t-1) + x_t, every unit by itself, computed in all blocks of a row at once; and
h_t = max(h_(t-1) + a_t, x_t), which is the same with other signs.

Each of C steps computes the next position of all T / C blocks, as if the state before each block were zero, and the
product of the block's a so far; then the states before the blocks follow from each other. That is C + T / C steps in
place of T, and a constant amount of work a position. The gradient is the same recurrence from the end. float32.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxlm.axes import Array
from jaxlm.ops.recurrence import marks

CHUNK = 64  # positions of a block


def blocked_scan(
    log_BTF: Array,
    x_BTF: Array,
    state_BF: Array | None = None,
    segments_BT: Array | None = None,
    chunk: int = CHUNK,
) -> tuple[Array, Array]:
    """All positions: time and memory are linear in T.

    Args:
        log_BTF: log a, not positive; F stands for any number of dimensions, which may be 1 where x has more.
        x_BTF: what is added.
        state_BF: h before the first token, as part of its text; None: zeros.
        segments_BT: a text begins at state zero where the segment changes. At segment 0, padding, the state stays as it
            is, so texts may be padded on the left. None: each row is one text.
        chunk: positions of a block; it need not divide T. T blocks of one and one block of T are both token by token.

    Returns:
        h_BTF and h behind the last token, float32.
    """
    a_BTF, x_BTF = jnp.exp(log_BTF.astype(jnp.float32)), x_BTF.astype(jnp.float32)
    if segments_BT is not None:
        real_BT, fresh_BT = (x.reshape(*x.shape, *(1,) * (x_BTF.ndim - 2)) for x in marks(segments_BT))
        a_BTF, x_BTF = jnp.where(real_BT, jnp.where(fresh_BT, 0, a_BTF), 1), jnp.where(real_BT, x_BTF, 0)
    state_BF = jnp.zeros_like(x_BTF[:, 0]) if state_BF is None else state_BF
    h_BTF = checkpoint_name(_scan(min(chunk, x_BTF.shape[1]), a_BTF, x_BTF, state_BF), "attention")
    return h_BTF, h_BTF[:, -1]


def blocked_scan_step(log_BF: Array, x_BF: Array, state_BF: Array) -> Array:
    """One more token of `blocked_scan`: h behind it."""
    return jnp.exp(log_BF) * state_BF + x_BF


def blocked_max(a_BTF: Array, x_BTF: Array, state_BF: Array, chunk: int = CHUNK) -> Array:
    """h_t = max(h_(t-1) + a_t, x_t) of all positions, computed as `blocked_scan` is; it has no gradient."""
    a_BTF, x_BTF, state_BF = map(lax.stop_gradient, (a_BTF, x_BTF, state_BF))
    return _blocks(min(chunk, x_BTF.shape[1]), a_BTF, x_BTF, state_BF, jnp.add, jnp.maximum, 0, -jnp.inf)


def _blocks(
    C: int,
    a: Array,
    x: Array,
    h: Array,
    times: Callable = jnp.multiply,
    plus: Callable = jnp.add,
    one: float = 1,
    zero: float = 0,
) -> Array:
    B, T = x.shape[:2]
    split = lambda y: jnp.moveaxis(
        jnp.pad(y, ((0, 0), (0, -T % C), *((0, 0),) * (y.ndim - 2))).reshape(B, -1, C, *y.shape[2:]), 2, 0
    )
    a, x = split(a), split(x)

    def within(carry, at):
        whole, h = carry
        carry = times(at[0], whole), plus(times(at[0], h), at[1])
        return carry, carry

    start = jnp.full_like(a[0], one), jnp.full_like(x[0], zero)
    (whole, last), (sofar, own) = lax.scan(within, start, (a, x))

    def between(h, at):
        return plus(times(at[0], h), at[1]), h

    _, before = lax.scan(between, h, (jnp.moveaxis(whole, 1, 0), jnp.moveaxis(last, 1, 0)))
    h = plus(own, times(sofar, jnp.moveaxis(before, 0, 1)[None]))
    return jnp.moveaxis(h, 0, 2).reshape(B, -1, *h.shape[3:])[:, :T]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(C, a, x, h):
    return _blocks(C, a, x, h)


def _forward(C, a, x, h):
    out = _blocks(C, a, x, h)
    return out, (a, out, h)


def _backward(C, saved, dout):
    a, out, h = saved
    later = jnp.concatenate([a[:, 1:], jnp.ones_like(a[:, :1])], 1)
    dx = jnp.flip(_blocks(C, jnp.flip(later, 1), jnp.flip(dout, 1), jnp.zeros_like(h)), 1)
    da = dx * jnp.concatenate([h[:, None], out[:, :-1]], 1)
    shared = tuple(i for i in range(a.ndim) if a.shape[i] < da.shape[i])
    return da.sum(shared, keepdims=True) if shared else da, dx, a[:, 0] * dx[:, 0]


_scan.defvjp(_forward, _backward)
