import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import wkv, wkv_step
from jaxlm.ops.wkv import EMPTY
from tests.ops import recurrences
from tests.ops.recurrences import ROWS, T

Z = 6


def inputs(T=T, rows=ROWS, size=1.0):
    k, v = np.random.default_rng(0).normal(size=(2, rows, T, Z)).astype(np.float32)
    return size * k, v


XS = inputs()
RNG = np.random.default_rng(1)
P = np.exp(RNG.normal(size=Z)).astype(np.float32), RNG.normal(size=Z).astype(np.float32)


def op(xs, params, state, segments, chunk):
    return wkv(*xs, *params, state, segments, chunk)


def plain(xs, params, state, segments, chunk):
    """One token after the other."""

    def step(state, at):
        y, state = wkv_step(*at, *params, state)
        return state, y

    zero = jnp.zeros((len(xs[0]), Z))
    state, y = jax.lax.scan(step, (zero + EMPTY, zero, zero), jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), xs))
    return jnp.moveaxis(y, 0, 1), state


def slow(k, v):
    """The paper's sums, each anew."""
    (w, u), y = P, np.zeros((T, Z))
    for t, z in np.ndindex(T, Z):
        weights = [np.exp(k[i, z] - (t - 1 - i) * w[z]) for i in range(t)] + [np.exp(k[t, z] + u[z])]
        y[t, z] = np.dot(weights, v[: t + 1, z]) / np.sum(weights)
    return y


def test_it_is_its_equation():
    wanted = [slow(*(np.float64(x[row]) for x in XS)) for row in range(ROWS)]
    for y, _ in (op(XS, P, None, None, 4), plain(XS, P, None, None, 1)):
        np.testing.assert_allclose(y, wanted, atol=1e-5)


def test_parallel_is_chunked_is_recurrent():
    recurrences.chunks_change_nothing(op, XS, P, (T, 4, 1))


def means(f):
    """Of a state what does not depend on how it is written: the average, and the logarithm of the weights' sum."""

    def of(*args):
        y, (m, p, q) = f(*args)
        return y, (p / q, m + jnp.log(q))

    return of


def test_the_gradient_is_that_of_the_steps():
    recurrences.gradients_are_those_of(means(plain), means(op), XS, P, 4)


def test_packed_texts_are_each_alone():
    recurrences.packed_texts_are_each_alone(op, XS, P, 4)


def test_keys_of_any_size():
    """Also far beyond what exp can hold."""
    for size in (30.0, 1000.0):
        xs = inputs(size=size)
        y, _ = op(xs, P, None, None, 3)
        np.testing.assert_allclose(y, plain(xs, P, None, None, 1)[0], atol=1e-5)
        assert np.abs(y).max() <= np.abs(xs[1]).max() + 1e-5  # an average
    recurrences.gradients_are_those_of(means(plain), means(op), inputs(size=30.0), P, 3)


def test_sixteen_bits():
    half = [jnp.asarray(x, jnp.bfloat16) for x in XS]
    y, state = op(half, P, None, None, 4)
    assert y.dtype == jnp.bfloat16 and all(s.dtype == jnp.float32 for s in state)
    wanted = op([np.asarray(x, np.float32) for x in half], P, None, None, 4)[0]
    np.testing.assert_allclose(np.asarray(y, np.float32), wanted, rtol=2e-2, atol=2e-2)


def test_training_memory_is_linear():
    recurrences.memory_is_linear(op, lambda T: jax.tree.map(jnp.asarray, inputs(T, 1)), P, 64)


@pytest.mark.parametrize("at", [1, 7])
def test_it_goes_on_from_its_state(at):
    whole, last = op(XS, P, None, None, 4)
    _, state = op([x[:, :at] for x in XS], P, None, None, 4)
    y, end = op([x[:, at:] for x in XS], P, state, None, 4)
    np.testing.assert_allclose(y, whole[:, at:], atol=1e-5)
    chex.assert_trees_all_close(end, last, atol=1e-5)
