import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import gated_linear, gated_linear_step
from tests.ops import recurrences
from tests.ops.recurrences import ROWS, T

H, K, J = 2, 3, 4


def inputs(T=T, rows=ROWS, size=1.0, width=K):
    """With decays of gates whose logits are of this size."""
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, rows, T, H, K)).astype(np.float32)
    v = rng.normal(size=(rows, T, H, J)).astype(np.float32)
    return q, k, v, -np.logaddexp(0, size * rng.normal(size=(rows, T, H, width))).astype(np.float32)


BONUS = np.random.default_rng(1).normal(size=(H, K)).astype(np.float32)
CASES = {"a head": (inputs(width=1), None), "channels": (inputs(), None), "bonus": (inputs(), BONUS)}
ALL = pytest.mark.parametrize(("xs", "u"), CASES.values(), ids=CASES)


def op(xs, u, state, segments, chunk):
    return gated_linear(*xs, u, state, segments, chunk)


def plain(xs, u, state, segments, chunk):
    """One token after the other."""

    def step(s, at):
        y, s = gated_linear_step(*at, u, s)
        return s, y

    state = jnp.zeros((len(xs[0]), H, K, J))
    s, y = jax.lax.scan(step, state, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), xs))
    return jnp.moveaxis(y, 0, 1), s


def slow(q, k, v, log, u):
    """The equations of one row, number by number."""
    s, y = np.zeros((H, K, J)), np.zeros((T, H, J))
    for t, h in np.ndindex(T, H):
        before, new = s[h].copy(), np.outer(k[t, h], v[t, h])
        s[h] = np.exp(log[t, h])[:, None] * before + new
        y[t, h] = q[t, h] @ (s[h] if u is None else before + u[h][:, None] * new)
    return y, s


@ALL
def test_it_is_its_equation(xs, u):
    wanted = [slow(*(x[row] for x in xs), u) for row in range(ROWS)]
    for y, state in (op(xs, u, None, None, 4), plain(xs, u, None, None, 1)):
        np.testing.assert_allclose(y, [y for y, _ in wanted], atol=1e-5)
        np.testing.assert_allclose(state, [state for _, state in wanted], atol=1e-5)


@ALL
def test_parallel_is_chunked_is_recurrent(xs, u):
    recurrences.chunks_change_nothing(op, xs, u, (T, 3, 1))


@ALL
def test_packed_texts_are_each_alone(xs, u):
    recurrences.packed_texts_are_each_alone(op, xs, u, 4)


@pytest.mark.parametrize(("width", "u"), [(1, None), (K, None), (K, BONUS)], ids=CASES)
def test_decays_of_any_size(width, u):
    """Gates that keep all beside gates that keep nothing: none overflows, and what is small is not lost."""
    xs = inputs(size=30.0, width=width)
    np.testing.assert_allclose(op(xs, u, None, None, 8)[0], plain(xs, u, None, None, 1)[0], atol=1e-5)
    recurrences.gradients_are_those_of(plain, op, xs, u, 8)
    never = (*xs[:3], np.full_like(xs[3], -1e30))
    np.testing.assert_allclose(op(never, u, None, None, 8)[0], plain(never, u, None, None, 1)[0], atol=1e-5)


@ALL
def test_sixteen_bits(xs, u):
    half = [jnp.asarray(x, jnp.bfloat16) for x in xs]
    recurrences.sixteen_bits(op, plain, half, u, 4)


def test_training_memory_is_linear():
    recurrences.memory_is_linear(op, lambda T: jax.tree.map(jnp.asarray, inputs(T, 1)), None, 16)
    recurrences.no_square(op, jax.tree.map(jnp.asarray, inputs(1000, 1)), None, 16)


@ALL
@pytest.mark.parametrize("at", [1, 7])
def test_it_goes_on_from_its_state(xs, u, at):
    recurrences.it_goes_on(op, xs, u, at, 4)
