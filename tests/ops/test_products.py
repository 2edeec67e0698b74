"""Products in int8: exact sums of what was rounded, in both layouts and for a single token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops.leaves import Int8, Rescaled
from jaxlm.sharding import einsum

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("rows", [(1, 1), (1, 3), (2, 1)])
@pytest.mark.parametrize(
    ("equation", "shape", "inputs"), [("btd,dhk->bthk", (8, 3, 4), (0,)), ("bthk,hkd->btd", (3, 4, 6), (0, 1))]
)
def test_a_product_is_that_of_what_was_rounded(equation, shape, inputs, rows):
    w = RNG.normal(size=shape).astype(np.float32)
    ins = tuple(shape[i] for i in inputs)
    x = RNG.normal(size=(*rows, *ins)).astype(np.float32)
    leaf = Int8.of(jnp.asarray(w), inputs, activations=True)
    over = tuple(range(2, x.ndim))
    t = np.abs(x).max(over, keepdims=True) / 127
    expected = np.einsum(equation, np.round(x / t) * t, np.asarray(leaf.dense()))
    multiply = jax.jit(lambda leaf, x: einsum(equation, x, leaf.read().astype(x.dtype)))
    np.testing.assert_allclose(multiply(leaf, x), expected, atol=1e-5)
    assert np.abs(np.asarray(leaf.dense()) - w).max() < np.abs(w).max() / 200

    factor = np.abs(RNG.normal(size=[n if i in inputs else 1 for i, n in enumerate(shape)])).astype(np.float32)
    scaled = Rescaled(Int8.of(jnp.asarray(w / factor), inputs, activations=True), factor)
    y = x * factor.reshape(ins)
    t = np.abs(y).max(over, keepdims=True) / 127
    expected = np.einsum(equation, np.round(y / t) * t, np.asarray(scaled.w.dense()))
    np.testing.assert_allclose(multiply(scaled, x), expected, atol=1e-5)
    assert multiply(leaf, jnp.zeros_like(x)).sum() == 0
