from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import DPLR, hippo_legs, s4_conv, s4_kernel, s4_scan, s4_step
from tests.ops import recurrences
from tests.ops.recurrences import ROWS, T

F, Z = 2, 3
DT = np.array([0.3, 0.05], np.float32)


def inputs(T=T, rows=ROWS) -> Any:
    return np.random.default_rng(0).normal(size=(rows, T, F)).astype(np.float32)


def dense():
    """HiPPO-LegS as it is written, and its normal part's basis."""
    n = np.arange(2 * Z)
    a = -np.tril(np.sqrt(np.outer(2 * n + 1, 2 * n + 1)), -1) - np.diag(n + 1)
    return a, np.sqrt(2 * n + 1)


def params():
    """As real numbers: those of Lambda, P, B and C, dt and d."""
    rng = np.random.default_rng(1)
    parts: Any = [np.tile(x[None], (F, 1)) for x in hippo_legs(Z)]
    parts.append(rng.normal(size=(F, Z)) + 1j * rng.normal(size=(F, Z)))
    real = [x for part in parts for x in (part.real, part.imag)]
    return [jnp.asarray(x, jnp.float32) for x in (*real, DT, rng.normal(size=F))]


def read(p):
    a, p_, b, c = (p[i] + 1j * p[i + 1] for i in (0, 2, 4, 6))
    return DPLR(a, p_, b, c, p[8]), p[9]


X, P = inputs(), params()


def op(x, p, state, segments, chunk):
    return s4_scan(x, *read(p), state, segments, chunk)


def convolved(x, p, state, segments, chunk):
    """The state, which convolution does not give, is the scan's."""
    return s4_conv(x, *read(p), segments), op(x, p, None, segments, chunk)[1]


def plain(x, p, state, segments, chunk):
    def step(s, x):
        y, s = s4_step(x, *read(p), s)
        return s, y

    last, y = jax.lax.scan(step, jnp.zeros((len(x), F, Z), jnp.complex64), jnp.moveaxis(x, 1, 0))
    return jnp.moveaxis(y, 0, 1), last


def test_hippo_is_normal_plus_rank_one():
    """The eigenvalues of A, which are -1, -2, ..., and what the impulse response does not know of bases."""
    (a, b), (lam, p, b_) = dense(), hippo_legs(Z)
    full = lambda x: np.concatenate([x, x.conj()])
    ours = np.diag(full(lam)) - np.outer(full(p), full(p).conj())
    np.testing.assert_allclose(np.sort(np.linalg.eigvals(ours).real), -np.arange(2 * Z, 0, -1), atol=1e-8)
    moments = lambda a, b, p: [p.conj() @ np.linalg.matrix_power(a, i) @ b for i in range(6)]
    np.testing.assert_allclose(moments(ours, full(b_), full(p)), moments(a, b, np.sqrt(np.arange(2 * Z) + 0.5)))


def test_it_is_its_equation():
    """The bilinear rule with dense matrices, solved."""
    system, d = jax.tree.map(lambda x: np.asarray(x, np.complex128), read(P))
    full = lambda x: np.concatenate([x, x.conj()])
    wanted = np.zeros(X.shape)
    for f in range(F):
        a = np.diag(full(system.a_FZ[f])) - np.outer(full(system.p_FZ[f]), full(system.p_FZ[f]).conj())
        half, one = DT[f] / 2 * a, np.eye(2 * Z)
        a_bar, b_bar = (np.linalg.solve(one - half, y) for y in (one + half, DT[f] * full(system.b_FZ[f])))
        for row in range(ROWS):
            h = np.zeros(2 * Z, complex)
            for t in range(T):
                h = a_bar @ h + b_bar * X[row, t, f]
                wanted[row, t, f] = (full(system.c_FZ[f]) @ h + d[f] * X[row, t, f]).real
    for form in (op, convolved, plain):
        y, _ = jax.jit(form, static_argnums=4)(X, P, None, None, 4)
        np.testing.assert_allclose(y, wanted, atol=1e-5)


@pytest.mark.parametrize("T", [1, 2, 3, 16, 17])
def test_kernels_of_any_length(T):
    impulse: Any = np.zeros((1, T, F), np.float32)
    impulse[:, 0] = 1
    system, _ = read(P)
    y, _ = s4_scan(impulse, system, jnp.zeros(F))
    np.testing.assert_allclose(s4_kernel(system, T), y[0], atol=1e-5)


def test_a_long_kernel_keeps_its_digits():
    """What it squares stays as exact as what is computed step by step."""
    p = [*P[:8], jnp.array([0.001, 0.1]), P[9]]
    impulse: Any = np.zeros((1, 2048, F), np.float32)
    impulse[:, 0] = 1
    system, _ = read(p)
    y, _ = jax.jit(s4_scan)(impulse, system, jnp.zeros(F))
    np.testing.assert_allclose(jax.jit(s4_kernel, static_argnums=1)(system, 2048), y[0], atol=1e-5 * np.abs(y).max())


def test_chunks_are_of_any_size():
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
