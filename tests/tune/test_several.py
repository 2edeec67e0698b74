"""Adapters side by side on meshes that divide heads and widths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.models import abstract, forward, init_boxed
from jaxlm.nn import BlockConfig, LayersConfig, MoEConfig
from jaxlm.ops.leaves import LowRank, chosen, dense, is_leaf
from jaxlm.sharding import MeshConfig, make_mesh, unbox
from jaxlm.tune import LoRA
from jaxlm.tune.several import alone, beside
from tests import tiny

CONFIG = tiny.model()
TOKENS = np.arange(64, dtype=np.int32).reshape(4, 16) % 60
KINDS = LoRA(rank=2, of="q|o|ffn.*"), LoRA(rank=3, of="v|o", rslora=True), LoRA(rank=2, of="o|ffn.down", dora=True)


def adapted(params, config, trains, seed):
    dressed = trains.dress(params, abstract(config)[1], jax.random.key(seed))
    grown = lambda x: x.replace(b=x.b + 0.1 * jax.random.normal(jax.random.key(seed), x.b.shape))
    return jax.tree.map(lambda x: grown(x) if isinstance(x, LowRank) else x, dressed, is_leaf=is_leaf)


@pytest.fixture(scope="module")
def three():
    """Parameters of the base, with each adapter, and with all side by side."""

    @jax.jit
    def make():
        base = unbox(init_boxed(CONFIG, jax.random.key(0)))
        each = [adapted(base, CONFIG, trains, i) for i, trains in enumerate(KINDS)]
        params = base
        for i, one in enumerate(each):
            params = beside(CONFIG, params, base, one, i + 1, str(i))
        return base, each, params

    return jax.tree.map(np.asarray, make())


@functools.partial(jax.jit, static_argnums=2)
def out(params, rows, at=slice(None)):
    params = params if rows is None else chosen(params, rows)
    return forward(CONFIG.build(), params, TOKENS[at]).hidden_BTD


def test_each_row_has_its_own(three):
    base, each, params = three
    rows = np.array([2, 0, 3, 1], np.int32)
    merged = [base, *map(dense, each)]
    expected = np.stack([out(merged[i], None)[b] for b, i in enumerate(rows)])
    np.testing.assert_allclose(out(params, rows), expected, atol=2e-5)
    assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (alone(params), base)), strict=True))
    for shape in ({"data": 2, "tensor": 4}, {"fsdp": 2, "context": 2, "tensor": 2}):
        with jax.set_mesh(make_mesh(MeshConfig(**{"data": 1} | shape))):
            np.testing.assert_allclose(out(params, rows), expected, atol=2e-5)


def test_no_change_is_multiplied_out(three):
    """No array of the program is as large as one changed weight for each row."""
    params = three[2]
    run = lambda params, rows: forward(CONFIG.build(), chosen(params, rows), TOKENS[:, :1]).hidden_BTD
    program = jax.make_jaxpr(run)(params, jnp.zeros(4, jnp.int32))
    sizes = [v.aval.size for eqn in program.eqns for v in eqn.outvars]
    assert max(sizes) <= max(x.size for x in jax.tree.leaves(params))


def test_bad_input(three):
    blocks = (BlockConfig(CONFIG.layers[0].blocks[0].mixer, MoEConfig(F=16, E=4, top_k=2)),)
    config = tiny.model(layers=(LayersConfig(blocks),))

    def make():
        base = unbox(init_boxed(config, jax.random.key(0)))
        return beside(config, base, base, adapted(base, config, LoRA(of="q|ffn.up"), 0), 1, "sql")

    with pytest.raises(UserError, match=r"'sql' changes .*ffn\.up, which is no plain product"):
        jax.eval_shape(make)
    base, each, _ = three
    with jax.set_mesh(make_mesh(MeshConfig(data=4, stage=2))), pytest.raises(UserError, match="pipeline"):
        beside(CONFIG, base, base, each[0], 1, "sql")
