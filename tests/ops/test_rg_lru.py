import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import rg_lru, rg_lru_step
from tests.ops import recurrences
from tests.ops.recurrences import ROWS, SEGMENTS, T

H, K = 2, 3


def inputs(T=T, rows=ROWS, size=1.0):
    x, i, r = np.random.default_rng(0).normal(size=(3, rows, T, H, K)).astype(np.float32)
    return x, size * i, size * r


XS = inputs()
P = np.random.default_rng(1).normal(size=(H, K)).astype(np.float32)
# Of each text in its row, as positions tell: here of the packed rows, and of rows that are one text each.
FIRST = (SEGMENTS > 0) & (np.pad(SEGMENTS, ((0, 0), (1, 0)))[:, :-1] != SEGMENTS)


def op(xs, params, state, segments, chunk):
    first = FIRST if segments is not None else np.arange(xs[0].shape[1])[None] == 0
    return rg_lru(*xs, params, first, state, segments, chunk)


def plain(xs, params, state, segments, chunk):
    """One token after the other."""

    def step(h, at):
        h = rg_lru_step(*at[:3], params, at[3], h)
        return h, h

    xs = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), xs)
    first = jnp.zeros(xs[0].shape[:2], bool).at[0].set(True)
    h, y = jax.lax.scan(step, jnp.zeros(xs[0].shape[1:]), (*xs, first))
    return jnp.moveaxis(y, 0, 1), h


def slow(x, i, r):
    """The equations, number by number."""
    sigmoid = lambda x: 1 / (1 + np.exp(-np.float64(x)))
    h, y = np.zeros((H, K)), np.zeros((T, H, K))
    for t, head, k in np.ndindex(T, H, K):
        a = np.exp(-8 * sigmoid(r[t, head, k]) * np.log1p(np.exp(P[head, k])))
        root = np.sqrt(1 - a * a) if t else 1
        h[head, k] = a * h[head, k] + root * sigmoid(i[t, head, k]) * x[t, head, k]
        y[t, head, k] = h[head, k]
    return y, h


def test_it_is_its_equation():
    wanted = [slow(*(x[row] for x in XS)) for row in range(ROWS)]
    for y, state in (op(XS, P, None, None, 4), plain(XS, P, None, None, 1)):
        np.testing.assert_allclose(y, [y for y, _ in wanted], atol=1e-5)
        np.testing.assert_allclose(state, [state for _, state in wanted], atol=1e-5)


def test_parallel_is_chunked_is_recurrent():
    recurrences.chunks_change_nothing(op, XS, P, (T, 4, 1))


def test_the_gradient_is_that_of_the_steps():
    recurrences.gradients_are_those_of(plain, op, XS, P, 4)


def test_packed_texts_are_each_alone():
    recurrences.packed_texts_are_each_alone(op, XS, P, 4)


def test_gates_of_any_size():
    """Where nothing is let go the root's slope is bounded: no gradient is infinite."""
    xs = inputs(size=30.0)
    np.testing.assert_allclose(op(xs, P, None, None, 3)[0], plain(xs, P, None, None, 1)[0], atol=1e-5)
    recurrences.gradients_are_those_of(plain, op, xs, P, 3)
    never = xs[0], xs[1], np.full_like(xs[2], -200)
    grads = jax.grad(lambda xs: jnp.sum(op(xs, P, None, None, 3)[0]))(never)
    assert all(bool(jnp.isfinite(g).all()) for g in grads)


def test_sixteen_bits():
    half = [jnp.asarray(x, jnp.bfloat16) for x in XS]
    y, state = op(half, P, None, None, 4)
    assert y.dtype == jnp.bfloat16 and state.dtype == jnp.float32
    wanted = op([np.asarray(x, np.float32) for x in half], P, None, None, 4)[0]
    np.testing.assert_allclose(np.asarray(y, np.float32), wanted, rtol=2e-2, atol=2e-2)


def test_training_memory_is_linear():
    recurrences.memory_is_linear(op, lambda T: jax.tree.map(jnp.asarray, inputs(T, 1)), P, 64)


@pytest.mark.parametrize("at", [1, 7])
def test_it_goes_on_from_its_state(at):
    first = np.arange(T)[None] == 0
    whole, last = rg_lru(*XS, P, first)
    _, state = rg_lru(*(x[:, :at] for x in XS), P, first[:, :at])
    y, end = rg_lru(*(x[:, at:] for x in XS), P, first[:, at:], state)
    np.testing.assert_allclose(y, whole[:, at:], atol=1e-5)
    np.testing.assert_allclose(end, last, atol=1e-5)
