"""Stored forms of a weight against the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops.leaves import Int8, LowRank, dense

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("lead", [(), (3,)], ids=str)
def test_low_rank(lead):
    """w + scale a b, of heads as outputs, of heads as inputs, and behind leading axes."""
    w, a, b = normal(*lead, 5, 2, 4), normal(*lead, 5, 3), normal(*lead, 3, 2, 4)
    leaf = LowRank(w, a, b, 0.5, (-3,), (-2, -1))
    np.testing.assert_allclose(leaf.dense(), w + 0.5 * np.einsum("...dr,...rhk->...dhk", a, b), rtol=1e-5)
    w, a, b = normal(*lead, 2, 4, 5), normal(*lead, 2, 4, 3), normal(*lead, 3, 5)
    leaf = LowRank(w, a, b, 0.5, (-3, -2), (-1,))
    np.testing.assert_allclose(leaf.dense(), w + 0.5 * np.einsum("...hkr,...rd->...hkd", a, b), rtol=1e-5)


def test_int8():
    w = normal(3, 5, 4)
    leaf = Int8.of(w, (1,))
    assert leaf.q.dtype == jnp.int8 and leaf.scale.shape == (3, 1, 4)
    error = np.abs(leaf.dense() - w) / (np.abs(w).max(1, keepdims=True) / 127)
    assert 0.3 < error.max() <= 0.5 + 1e-4
    assert jnp.abs(leaf.q).max(1).min() == 127
    np.testing.assert_array_equal(Int8.of(np.zeros((2, 2), np.float32), (0,)).dense(), 0)


def test_a_tree_is_made_dense():
    leaf = Int8.of(normal(5, 4), (0,))
    tree = dense({"a": leaf, "b": jnp.ones(3)})
    np.testing.assert_array_equal(tree["a"], leaf.dense())
    assert len(jax.tree.leaves(leaf)) == 2
