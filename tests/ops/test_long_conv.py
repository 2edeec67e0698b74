from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import long_conv
from jaxlm.ops.long_conv import _size
from jaxlm.sharding import MeshConfig
from tests.meshes import name, on
from tests.ops.recurrences import ROWS, SEGMENTS, T, training_bytes

F = 4
RNG = np.random.default_rng(0)
X: Any = RNG.normal(size=(ROWS, T, F)).astype(np.float32)
K: Any = RNG.normal(size=(T, F)).astype(np.float32)
TEXTS: Any = SEGMENTS


def slow(x, k, segments):
    """Every pair of tokens of one text."""
    y = np.zeros(x.shape)
    for b, t, s in np.ndindex(ROWS, T, T):
        if s <= t and t - s < len(k) and segments[b, t] == segments[b, s] > 0:
            y[b, t] += k[t - s] * x[b, s]
    return y


@pytest.mark.parametrize("width", [1, 4, T, 3 * T])
@pytest.mark.parametrize("segments", [None, TEXTS], ids=["one text", "texts and padding"])
def test_it_is_the_sum_of_all_pairs(width, segments):
    """Filters longer than the row are not read beyond its end."""
    k: Any = np.tile(K, (3, 1))[:width]
    wanted = slow(X, k, np.ones((ROWS, T), int) if segments is None else segments)
    np.testing.assert_allclose(long_conv(X, k, segments), wanted, atol=1e-5)


def test_nothing_leaks_from_text_to_text():
    """Not even what is not a number."""
    x: Any = np.where(SEGMENTS[..., None] == 1, np.nan, X)
    y = np.asarray(long_conv(x, K, TEXTS))
    np.testing.assert_array_equal(np.isnan(y).all(-1), SEGMENTS == 1)
    here = SEGMENTS > 1
    np.testing.assert_array_equal(y[here], np.asarray(long_conv(X, K, TEXTS))[here])


def test_the_gradient_is_that_of_the_pairs():
    pairs = (SEGMENTS[:, :, None] == SEGMENTS[:, None]) & (SEGMENTS > 0)[:, None] & np.tril(np.ones((T, T), bool))
    lag = np.maximum(np.arange(T)[:, None] - np.arange(T)[None], 0)
    dense = lambda x, k: jnp.einsum("bts,tsf,bsf->btf", pairs.astype(np.float32), k[lag], x)
    grads = lambda f: jax.jit(jax.grad(lambda x, k: jnp.sum(jnp.sin(f(x, k))), (0, 1)))(X, K[:7])
    found_by = grads(lambda x, k: long_conv(x, k, TEXTS))
    for found, wanted in zip(found_by, grads(lambda x, k: dense(x, jnp.pad(k, ((0, 3), (0, 0)))))):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_transform_is_long_enough_and_not_much_longer():
    assert all(2 * T <= _size(T) <= 8 / 3 * T for T in range(1, 100))


@pytest.mark.parametrize("mesh", [MeshConfig(data=1, fsdp=2, tensor=4), MeshConfig(4, 1, 2, explicit=False)], ids=name)
def test_a_mesh_changes_no_number(mesh):
    learn = jax.jit(jax.value_and_grad(lambda x, k, s: jnp.sum(jnp.sin(long_conv(x, k, s))), (0, 1)))
    x, segments = np.tile(X[:2], (2, 1, 1)), np.tile(SEGMENTS[:2], (2, 1))
    wanted = learn(x, K, segments)
    with on(mesh) as put:
        found = learn(put(x, "batch", None, "mlp"), put(K, None, "mlp"), put(segments, "batch", None))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-5)


def test_training_memory_is_linear():
    op = lambda x, k, state, segments, chunk: (long_conv(x, k, jnp.ones(x.shape[:2], jnp.int32)), ())
    sizes = [training_bytes(op, jnp.ones((1, T, F)), jnp.ones((T, F)), 1) for T in (1024, 4096)]
    assert sizes[1] <= 4.4 * sizes[0], sizes
