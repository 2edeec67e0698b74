import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.ops import selective_scan, selective_scan_step
from tests.ops import recurrences
from tests.ops.recurrences import ROWS, T

F, Z = 6, 4


def inputs(T=T, rows=ROWS, size=1.0):
    rng = np.random.default_rng(0)
    x, delta = rng.normal(size=(2, rows, T, F)).astype(np.float32)
    b, c = rng.normal(size=(2, rows, T, Z)).astype(np.float32)
    return x, np.logaddexp(0, size * delta), b, c


XS = inputs()
P = (-np.exp(np.random.default_rng(1).normal(size=(F, Z))).astype(np.float32), np.float32(np.arange(F)))


def op(xs, params, state, segments, chunk):
    x, delta, b, c = xs
    return selective_scan(x, delta, params[0], b, c, params[1], state, segments, chunk)


def plain(xs, params, state, segments, chunk):
    """One token after the other."""
    (a_FZ, d_F), h = params, jnp.zeros((len(xs[0]), F, Z))

    def step(h, at):
        x_BF, delta_BF, b_BZ, c_BZ = at
        y_BF, h = selective_scan_step(x_BF, delta_BF, a_FZ, b_BZ, c_BZ, d_F, h)
        return h, y_BF

    h, y = jax.lax.scan(step, h, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), xs))
    return jnp.moveaxis(y, 0, 1), h


def slow(x_TF, delta_TF, b_TZ, c_TZ):
    """The equations, number by number."""
    a, d = P
    h, y = np.zeros((F, Z)), np.zeros((T, F))
    for t in range(T):
        for f in range(F):
            for z in range(Z):
                h[f, z] = np.exp(delta_TF[t, f] * a[f, z]) * h[f, z] + delta_TF[t, f] * b_TZ[t, z] * x_TF[t, f]
            y[t, f] = c_TZ[t] @ h[f] + d[f] * x_TF[t, f]
    return y, h


def test_it_is_its_equation():
    wanted = [slow(*(x[row] for x in XS)) for row in range(ROWS)]
    for y, state in (op(XS, P, None, None, 4), plain(XS, P, None, None, 1)):
        np.testing.assert_allclose(y, [y for y, _ in wanted], atol=1e-5)
        np.testing.assert_allclose(state, [state for _, state in wanted], atol=1e-5)


def test_parallel_is_chunked_is_recurrent():
    recurrences.chunks_change_nothing(op, XS, P, (T, 4, 1))


def test_positions_in_parallel_are_those_in_turn(monkeypatch):
    """The form of accelerators, on whatever this is."""
    monkeypatch.setattr(sharding, "platform", lambda: "tpu")
    recurrences.gradients_are_those_of(plain, op, XS, P, 4)
    recurrences.chunks_change_nothing(op, XS, P, (T, 4))
    recurrences.packed_texts_are_each_alone(op, XS, P, 4)
    monkeypatch.setattr(sharding, "platform", lambda: "cpu")
    recurrences.gradients_are_those_of(plain, op, XS, P, 4)


def test_the_gradient_is_that_of_the_steps():
    recurrences.gradients_are_those_of(plain, op, XS, P, 4)


def test_packed_texts_are_each_alone():
    recurrences.packed_texts_are_each_alone(op, XS, P, 4)


def test_steps_of_any_size():
    """The state forgets all, or keeps all."""
    xs = inputs(size=30.0)
    y, _ = op(xs, P, None, None, 3)
    np.testing.assert_allclose(y, plain(xs, P, None, None, 1)[0], rtol=1e-5, atol=1e-4)
    recurrences.gradients_are_those_of(plain, op, xs, P, 3)


def test_sixteen_bits():
    half = [jnp.asarray(x, jnp.bfloat16) for x in XS]
    y, state = op(half, P, None, None, 4)
    assert y.dtype == jnp.bfloat16 and state.dtype == jnp.float32
    wanted = op([np.asarray(x, np.float32) for x in half], P, None, None, 4)[0]
    np.testing.assert_allclose(np.asarray(y, np.float32), wanted, rtol=2e-2, atol=2e-2)


def test_training_memory_is_linear():
    of = lambda T: jax.tree.map(jnp.asarray, inputs(T, 1))
    recurrences.memory_is_linear(op, of, P, 64)
    states = 4 * 4096 * F * Z  # bytes of those of a whole row, were they kept
    long = of(4096)
    assert recurrences.training_bytes(op, long, P, 64) < recurrences.training_bytes(op, long, P, 4096) - 3 * states


@pytest.mark.parametrize("at", [1, 7])
def test_it_goes_on_from_its_state(at):
    whole, last = op(XS, P, None, None, 4)
    _, state = op([x[:, :at] for x in XS], P, None, None, 4)
    y, end = op([x[:, at:] for x in XS], P, state, None, 4)
    np.testing.assert_allclose(y, whole[:, at:], atol=1e-5)
    np.testing.assert_allclose(end, last, atol=1e-5)
