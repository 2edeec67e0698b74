import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import compat
from jaxlm.ops import dropout
from jaxlm.ops.dropout import kept_pairs
from jaxlm.sharding import MeshConfig
from tests.meshes import MESHES, name, on

X = np.random.default_rng(0).uniform(1, 2, (8, 16, 64)).astype(np.float32)
NAMES = ("batch", None, "mlp")
KEY = jax.random.key(3)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_it_drops_its_rate_and_scales_the_rest(rate):
    y = np.asarray(dropout(X, rate, KEY))
    dropped = y == 0
    assert abs(dropped.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / X.size)
    np.testing.assert_allclose(y[~dropped], X[~dropped] / (1 - rate), rtol=1e-6)


def test_no_pattern_over_rows_positions_or_width():
    dropped = np.asarray(dropout(X, 0.5, KEY)) == 0
    for axis in range(3):
        share = dropped.mean(tuple(i for i in range(3) if i != axis))
        assert np.abs(share - 0.5).max() < 5 * 0.5 / np.sqrt(X.size / X.shape[axis])
        assert 0.45 < (dropped == np.roll(dropped, 1, axis)).mean() < 0.55


def test_the_key_decides():
    np.testing.assert_array_equal(dropout(X, 0.5, KEY), dropout(X, 0.5, jax.random.key(3)))
    assert (dropout(X, 0.5, KEY) != dropout(X, 0.5, jax.random.key(4))).any()


def test_rate_0_changes_nothing():
    np.testing.assert_array_equal(dropout(X, 0.0, KEY), X)


def test_the_gradient_has_the_same_mask():
    y, pull = jax.vjp(lambda x: dropout(x, 0.25, KEY), jnp.asarray(X))
    np.testing.assert_allclose(pull(jnp.ones_like(y))[0], np.where(y == 0, 0, 1 / 0.75), rtol=1e-6)


def test_dtype_is_kept():
    assert dropout(jnp.asarray(X, jnp.bfloat16), 0.5, KEY).dtype == jnp.bfloat16


@pytest.mark.parametrize("config", MESHES, ids=name)
def test_the_mask_does_not_depend_on_the_mesh(config: MeshConfig):
    expected = dropout(X, 0.5, KEY)
    with on(config) as put:
        y = jax.jit(lambda x, key: dropout(x, 0.5, key, *NAMES))(put(X, *NAMES), KEY)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("config", MESHES[4:6], ids=name)
def test_the_pairs_that_are_kept_do_not_depend_on_the_mesh(config: MeshConfig):
    numbers, places = np.arange(32).reshape(8, 4), np.arange(6)
    keep = jax.jit(lambda key, numbers: kept_pairs(0.3, key, numbers, places, places))
    expected = keep(KEY, numbers)
    assert 0.2 < 1 - np.mean(expected) < 0.4
    with on(config) as put:
        key = jax.device_put(KEY, jax.sharding.NamedSharding(compat.concrete_mesh(), jax.sharding.PartitionSpec()))
        np.testing.assert_array_equal(keep(key, put(numbers, "batch", "heads")), expected)
