from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import mlstm, mlstm_step
from tests.ops import recurrences
from tests.ops.recurrences import ROWS, T

H, K, J = 2, 3, 5


def inputs(T=T, rows=ROWS, size=1.0) -> Any:
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, rows, T, H, K)).astype(np.float32)
    if size > 1:  # no |q n| near zero, which divides what rounding left of it
        q, k = np.abs(q), np.abs(k)
    i, f = size * rng.normal(size=(2, rows, T, H)).astype(np.float32)
    return q, k, rng.normal(size=(rows, T, H, J)).astype(np.float32), i, f


XS = inputs()


def op(xs, params, state, segments, chunk):
    q, k, v, i, f = xs
    return mlstm(q, k, v, i, f, state, segments, chunk)


def plain(xs, params, state, segments, chunk):
    """One token after the other."""
    B = len(xs[0])

    def step(state, at):
        q, k, v, i, f = at
        y, state = mlstm_step(q, k, v, i, f, state)
        return state, y

    start = jnp.zeros((B, H, K, J + 1)), jnp.zeros((B, H))
    state, y = jax.lax.scan(step, start, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), xs))
    return jnp.moveaxis(y, 0, 1), state


def slow(q, k, v, i, f):
    """The paper's equations, not stabilised, in double precision."""
    y = np.zeros(v.shape)
    for h in range(H):
        s, n = np.zeros((K, J)), np.zeros(K)
        for t in range(len(q)):
            forget, write = 1 / (1 + np.exp(-f[t, h])), np.exp(i[t, h])
            s, n = forget * s + write * np.outer(k[t, h], v[t, h]), forget * n + write * k[t, h]
            query = q[t, h] / np.sqrt(K)
            y[t, h] = query @ s / max(abs(query @ n), 1)
    return y


@pytest.mark.parametrize("size", [1.0, 10.0])
def test_it_is_its_equation(size):
    xs = inputs(size=size)
    wanted = [slow(*(x[row].astype(np.float64) for x in xs)) for row in range(ROWS)]
    for y, _ in (op(xs, (), None, None, 4), plain(xs, (), None, None, 1)):
        np.testing.assert_allclose(y, wanted, rtol=2e-4 if size > 1 else 1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_parallel_is_chunked_is_recurrent(size):
    recurrences.chunks_change_nothing(op, inputs(size=size), (), (T, 4, 1), scaled=size > 1)


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_the_gradient_is_that_of_the_steps(size):
    recurrences.gradients_are_those_of(plain, op, inputs(size=size), (), 4)


def test_packed_texts_are_each_alone():
    recurrences.packed_texts_are_each_alone(op, XS, (), 4)


def test_gates_that_no_exponential_holds():
    q, k, v, i, f = XS
    learn = jax.jit(jax.value_and_grad(lambda xs: jnp.sum(op(xs, (), None, None, 4)[0])))
    for gate in (500.0, -500.0):
        for forget in (500.0, -500.0):
            y, dxs = learn((q, k, v, i + gate, f + forget))
            assert np.isfinite(y) and all(np.isfinite(x).all() for x in dxs)


def test_sixteen_bits():
    recurrences.half_is_close(op, XS, (), 4)


def test_training_memory_is_linear():
    recurrences.memory_is_linear(op, lambda T: jax.tree.map(jnp.asarray, inputs(T, 1)), (), 64)


@pytest.mark.parametrize("at", [1, 7])
def test_it_goes_on_from_its_state(at):
    recurrences.it_goes_on(op, XS, (), at, 4)
