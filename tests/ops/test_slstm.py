import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import slstm, slstm_step
from tests.ops import recurrences
from tests.ops.recurrences import ROWS, T

H, K = 2, 3


def inputs(T=T, rows=ROWS, size=1.0):
    x = np.random.default_rng(0).normal(size=(rows, T, 4, H, K)).astype(np.float32)
    return x * np.array([size, size, 1, 1], np.float32)[:, None, None]


XS, P = inputs(), np.random.default_rng(1).normal(size=(H, K, 4, K)).astype(np.float32) / 2


def op(x, w, state, segments, chunk):
    return slstm(x, w, state, segments)


def plain(x, w, state, segments, chunk):
    """One token after the other, by JAX's own gradient."""
    step = lambda s, x: (new := slstm_step(x, w, s), new[0])
    last, h = jax.lax.scan(step, (jnp.zeros((len(x), H, K)),) * 4, jnp.moveaxis(x, 1, 0))
    return jnp.moveaxis(h, 0, 1), last


def slow(x, w):
    """The paper's equations, not stabilised, in double precision."""
    h, c, n, ys = np.zeros((H, K)), np.zeros((H, K)), np.zeros((H, K)), []
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    for at in x:
        i, f, z, o = at + np.einsum("hk,hkgj->ghj", h, w)
        c, n = (sigmoid(f) * old + np.exp(i) * new for old, new in ((c, np.tanh(z)), (n, 1)))
        h = sigmoid(o) * c / n
        ys.append(h)
    return ys


@pytest.mark.parametrize("size", [1.0, 10.0])
def test_it_is_its_equation(size):
    x = inputs(size=size)
    wanted = [slow(row.astype(np.float64), P) for row in x]
    np.testing.assert_allclose(op(x, P, None, None, 1)[0], wanted, atol=1e-5)


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_the_gradient_is_that_of_the_steps(size):
    recurrences.gradients_are_those_of(plain, op, inputs(size=size), P, 1)


def test_packed_texts_are_each_alone():
    recurrences.packed_texts_are_each_alone(op, XS, P, 1)


def test_gates_that_no_exponential_holds():
    learn = jax.jit(jax.value_and_grad(lambda x: jnp.sum(op(x, P, None, None, 1)[0])))
    for gates in ((500, 500), (500, -500), (-500, 500), (-500, -500)):
        x = XS + np.array([*gates, 0, 0], np.float32)[:, None, None]
        y, dx = learn(x)
        assert np.isfinite(y) and np.isfinite(dx).all()


def test_sixteen_bits():
    recurrences.half_is_close(op, XS, P, 1)


def test_training_memory_is_linear():
    recurrences.memory_is_linear(op, lambda T: jnp.asarray(inputs(T, 1)), P, 1)


@pytest.mark.parametrize("at", [1, 7])
def test_it_goes_on_from_its_state(at):
    recurrences.it_goes_on(op, XS, P, at, 1)
