import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.ops import lookup, one_hot_lookup
from jaxlm.ops.embedding import exchanges_rows
from jaxlm.sharding import MeshConfig
from tests.meshes import MESHES, lies, name, on

RNG = np.random.default_rng(0)
V, D, B = 24, 16, 8
TABLE = RNG.normal(size=(V, D)).astype(np.float32)
CONTEXT = MeshConfig(data=1, fsdp=2, tensor=2, context=2)


@pytest.mark.parametrize("find", [lookup, one_hot_lookup])
@pytest.mark.parametrize("config", [None, *MESHES, CONTEXT], ids=name)
@pytest.mark.parametrize("T", [8, 5])  # the residual stream is divided over positions, or cannot be
def test_rows_and_the_gradient_of_the_table(config, T, find):
    ids, weights = RNG.integers(0, V, (B, T)), RNG.normal(size=(B, T, D)).astype(np.float32)
    ids[0, :3] = 5  # repeated ids add up
    gradient = np.zeros_like(TABLE)
    np.add.at(gradient, ids, weights)

    def f(table, ids, weights):
        x, pull = jax.vjp(lambda table: find(table, ids, jnp.float32), table)
        return x, pull(weights)[0]

    with on(config) as put:
        stream = sharding.stream(T)
        args = put(TABLE, "vocab", "embed"), put(ids, "batch", None), put(weights, *stream)
        x, dtable = jax.jit(f)(*args)
        if config is not None and config.explicit:
            assert lies(x, *stream) and lies(dtable, "vocab", "embed")
    np.testing.assert_array_equal(x, TABLE[ids])
    np.testing.assert_allclose(dtable, gradient, atol=1e-5)


@pytest.mark.parametrize("config", [c for c in (*MESHES, CONTEXT) if c.fsdp > 1], ids=name)
@pytest.mark.parametrize("V", [8, 4096])
def test_what_moves_is_the_smaller_of_rows_and_table(config, V):
    """The same rows and gradient either way, and one kind of exchange over the width in each direction."""
    ids, weights = RNG.integers(0, V, (B, 8)), RNG.normal(size=(B, 8, D)).astype(np.float32)
    table = RNG.normal(size=(V, D)).astype(np.float32)

    def f(table, ids, weights):
        x, pull = jax.vjp(lambda table: lookup(table, ids, jnp.float32), table)
        return x, pull(weights)[0]

    with on(config) as put:
        args = put(table, "vocab", "embed"), put(ids, "batch", None), put(weights, *sharding.stream(8))
        compiled = jax.jit(f).lower(*args).compile()
        x, dtable = compiled(*args)
        rows = exchanges_rows(ids.size, V, sharding.rows(8)[:2])
    gradient = np.zeros_like(table)
    np.add.at(gradient, ids, weights)
    np.testing.assert_array_equal(x, table[ids])
    np.testing.assert_allclose(dtable, gradient, atol=1e-5)
    assert rows == (V == 4096)
    assert compiled.as_text().count(" all-to-all(") == 2 * rows


@pytest.mark.parametrize("find", [lookup, one_hot_lookup])
@pytest.mark.parametrize("config", [None, MESHES[4]], ids=name)
def test_it_casts(config, find):
    ids = RNG.integers(0, V, (B, 6))
    with on(config) as put:
        x = jax.jit(lambda *a: find(*a, jnp.bfloat16))(put(TABLE, "vocab", "embed"), put(ids, "batch", None))
    np.testing.assert_array_equal(x, jnp.asarray(TABLE, jnp.bfloat16)[ids])


@pytest.mark.parametrize("config", [None, MESHES[4], MESHES[5]], ids=name)
def test_one_hot_of_no_row_is_zero(config):
    ids = np.tile(np.array([-1, 3, V, 2**31 - 1, -V, 0], np.int32), (B, 1))
    with on(config) as put:
        args = put(TABLE, "vocab", "embed"), put(ids, "batch", None)
        x = jax.jit(lambda *a: one_hot_lookup(*a, jnp.float32))(*args)
    row = np.zeros((6, D), np.float32)
    row[[1, 5]] = TABLE[[3, 0]]
    np.testing.assert_array_equal(x, np.tile(row, (B, 1, 1)))
