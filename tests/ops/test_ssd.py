import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import ssd, ssd_step
from tests.ops import recurrences
from tests.ops.recurrences import ROWS, T

H, K, G, Z = 4, 3, 2, 5


def inputs(T=T, rows=ROWS, size=1.0):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, T, H, K)).astype(np.float32)
    delta = np.logaddexp(0, size * rng.normal(size=(rows, T, H)).astype(np.float32))
    b, c = rng.normal(size=(2, rows, T, G, Z)).astype(np.float32)
    return x, delta, b, c


XS = inputs()
P = (-np.exp(np.random.default_rng(1).normal(size=H)).astype(np.float32), np.float32(np.arange(H)))


def op(xs, params, state, segments, chunk):
    x, delta, b, c = xs
    return ssd(x, delta, params[0], b, c, params[1], state, segments, chunk)


def plain(xs, params, state, segments, chunk):
    """One token after the other."""
    (a_H, d_H), s = params, jnp.zeros((len(xs[0]), H, K, Z))

    def step(s, at):
        x_BHK, delta_BH, b_BGZ, c_BGZ = at
        y_BHK, s = ssd_step(x_BHK, delta_BH, a_H, b_BGZ, c_BGZ, d_H, s)
        return s, y_BHK

    s, y = jax.lax.scan(step, s, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), xs))
    return jnp.moveaxis(y, 0, 1), s


def slow(x_THK, delta_TH, b_TGZ, c_TGZ):
    """The equations, number by number: heads 0 and 1 are of group 0."""
    a, d = P
    s, y = np.zeros((H, K, Z)), np.zeros((T, H, K))
    for t in range(T):
        for h in range(H):
            g = h // (H // G)
            s[h] = np.exp(delta_TH[t, h] * a[h]) * s[h] + delta_TH[t, h] * np.outer(x_THK[t, h], b_TGZ[t, g])
            y[t, h] = s[h] @ c_TGZ[t, g] + d[h] * x_THK[t, h]
    return y, s


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


def test_steps_of_any_size():
    """The state forgets all, or keeps all: what a small step leaves is not lost beside a large one."""
    xs = inputs(size=30.0)
    y, _ = op(xs, P, None, None, 6)
    np.testing.assert_allclose(y, plain(xs, P, None, None, 1)[0], rtol=1e-5, atol=1e-4)
    recurrences.gradients_are_those_of(plain, op, xs, P, 6)


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
    whole, last = op(XS, P, None, None, 4)
    _, state = op([x[:, :at] for x in XS], P, None, None, 4)
    y, end = op([x[:, at:] for x in XS], P, state, None, 4)
    np.testing.assert_allclose(y, whole[:, at:], atol=1e-5)
    np.testing.assert_allclose(end, last, atol=1e-5)
