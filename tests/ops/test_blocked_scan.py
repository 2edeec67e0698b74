import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import blocked_scan, blocked_scan_step
from tests.ops import recurrences
from tests.ops.recurrences import ROWS, T

F = 5


def inputs(T=T, rows=ROWS, size=1.0):
    """With decays of gates whose logits are of this size."""
    gate, x = np.random.default_rng(0).normal(size=(2, rows, T, F)).astype(np.float32)
    return -np.logaddexp(0, size * gate), x


XS = inputs()


def op(xs, _, state, segments, chunk):
    return blocked_scan(*xs, state, segments, chunk)


def plain(xs, _, state, segments, chunk):
    """One token after the other."""

    def step(h, at):
        h = blocked_scan_step(*at, h)
        return h, h

    h, all = jax.lax.scan(step, jnp.zeros((len(xs[0]), F)), jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), tuple(xs)))
    return jnp.moveaxis(all, 0, 1), h


def test_it_is_its_equation():
    h, wanted = np.zeros((ROWS, F)), []
    for t in range(T):
        h = np.exp(XS[0][:, t]) * h + XS[1][:, t]
        wanted.append(h)
    for chunk in (T, 4, 1):
        np.testing.assert_allclose(op(XS, None, None, None, chunk)[0], np.stack(wanted, 1), atol=1e-5)


def test_parallel_is_chunked_is_recurrent():
    recurrences.chunks_change_nothing(op, XS, None, (T, 3, 1))


def test_packed_texts_are_each_alone():
    recurrences.packed_texts_are_each_alone(op, XS, None, 4)


@pytest.mark.parametrize("size", [1.0, 30.0])
def test_the_gradient_is_that_of_the_steps(size):
    recurrences.gradients_are_those_of(plain, op, inputs(size=size), None, 4)


def test_training_memory_is_linear():
    recurrences.memory_is_linear(op, lambda T: jax.tree.map(jnp.asarray, inputs(T, 1)), None, 64)


@pytest.mark.parametrize("at", [1, 7])
def test_it_goes_on_from_its_state(at):
    recurrences.it_goes_on(op, XS, None, at, 4)
