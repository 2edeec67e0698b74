from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import diagonal_conv, diagonal_scan, diagonal_step, s4d_rates, zero_order_hold
from tests.ops import recurrences
from tests.ops.recurrences import ROWS, T

F, Z = 3, 4


def inputs(T=T, rows=ROWS) -> Any:
    return np.random.default_rng(0).normal(size=(rows, T, F)).astype(np.float32)


def system(kind="lin") -> Any:
    rng = np.random.default_rng(1)
    a = np.tile(s4d_rates(Z, kind)[None], (F, 1))
    c = rng.normal(size=(F, Z)) + 1j * rng.normal(size=(F, Z))
    return a, c, np.array([0.3, 0.1, 0.02], np.float32), rng.normal(size=F).astype(np.float32)


def params(kind="lin"):
    """As real numbers, whose gradients nobody can take for those of their conjugates."""
    a, c, dt, d = system(kind)
    return [jnp.asarray(x, jnp.float32) for x in (a.real, a.imag, c.real, c.imag, dt, d)]


def discrete(p):
    return (*zero_order_hold(p[0] + 1j * p[1], p[2] + 1j * p[3], p[4]), p[5])


X, P = inputs(), params()


def op(x, p, state, segments, chunk):
    return diagonal_scan(x, *discrete(p), state, segments, chunk)


def convolved(x, p, state, segments, chunk):
    """The state, which convolution does not give, is the scan's."""
    return diagonal_conv(x, *discrete(p), segments), op(x, p, None, segments, chunk)[1]


def plain(x, p, state, segments, chunk):
    log, c, d = discrete(p)

    def step(s, x):
        y, s = diagonal_step(x, log, c, d, s)
        return s, y

    last, y = jax.lax.scan(step, jnp.zeros((len(x), F, Z), jnp.complex64), jnp.moveaxis(x, 1, 0))
    return jnp.moveaxis(y, 0, 1), last


def slow(x, kind):
    """The continuous system, whose input stays for dt: h(t + dt) = e^(A dt) h + A^-1 (e^(A dt) - 1) x."""
    (a, c, dt, d), y = system(kind), np.zeros(x.shape)
    for f in range(F):
        h, decay = np.zeros(Z, complex), np.exp(np.float64(dt[f]) * a[f])
        for t in range(len(x)):
            h = decay * h + (decay - 1) / a[f] * x[t, f]
            y[t, f] = 2 * (c[f] @ h).real + d[f] * x[t, f]
    return y


@pytest.mark.parametrize("kind", ["lin", "inv"])
def test_it_is_its_equation(kind):
    wanted, p = [slow(row.astype(np.float64), kind) for row in X], params(kind)
    wanted = np.array(wanted)
    for form in (op, convolved, plain):
        y, _ = jax.jit(form, static_argnums=4)(X, p, None, None, 4)
        np.testing.assert_allclose(y, wanted, atol=1e-5 * np.abs(wanted).max())


def test_parallel_is_chunked_is_recurrent():
    recurrences.chunks_change_nothing(op, X, P, (T, 4, 1), scaled=True)


@pytest.mark.parametrize("form", [op, convolved])
def test_the_gradient_is_that_of_the_steps(form):
    recurrences.gradients_are_those_of(plain, form, X, P, 4)


@pytest.mark.parametrize("form", [op, convolved])
def test_packed_texts_are_each_alone(form):
    recurrences.packed_texts_are_each_alone(form, X, P, 4)


def test_sixteen_bits():
    recurrences.half_is_close(convolved, X, P, 4)


def test_training_memory_is_linear():
    for form in (op, convolved):
        recurrences.memory_is_linear(form, lambda T: jnp.asarray(inputs(T, 1)), P, 64)


def test_it_goes_on_from_its_state():
    recurrences.it_goes_on(op, X, P, 7, 4)
