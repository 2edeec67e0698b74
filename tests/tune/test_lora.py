"""LoRA: what is put where, what is trained, and that nothing else is."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.models import abstract, forward
from jaxlm.nn import BlockConfig, LayersConfig, MLPConfig, MoEConfig
from jaxlm.ops.leaves import dense
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train.setup import Setup
from jaxlm.trains import join
from jaxlm.tune import LoRA
from tests import tiny
from tests.meshes import name

BLOCK = tiny.model().layers[0].blocks[0]
MIXED = tiny.model(
    layers=(LayersConfig((BLOCK, BlockConfig(BLOCK.mixer, MoEConfig(F=16, E=8, top_k=2))), 2), LayersConfig((BLOCK,)))
)
TRAINS = LoRA(rank=3, alpha=6.0, of="q|o|ffn.up|ffn.gate")
RUN = tiny.run(model=MIXED, trains=TRAINS, batch=8)
ONE = MeshConfig(data=1)


def setup(run, mesh=ONE):
    return Setup(run, make_mesh(mesh, jax.devices()[:1] if mesh == ONE else None))


def take(run, mesh=ONE, steps=2):
    ready = setup(run, mesh)
    state, frozen = ready.create()
    with jax.set_mesh(ready.mesh):
        step = jax.jit(ready.train_step)
        for i in range(steps):
            state, metrics = step(state, tiny.place(tiny.batch(8, seed=i), ready.mesh, 1), frozen)
    return state, frozen, metrics


def test_the_change_begins_at_zero_and_is_a_product():
    state, frozen = setup(RUN).create()
    plain, _ = setup(dataclasses.replace(RUN, trains=tiny.run().trains)).create()
    chex.assert_trees_all_close(dense(join(state.params, frozen)), plain.params)
    moved = jax.tree.map(lambda x: x + 0.1, state.params)
    layer = lambda tree: tree["segment_0"]["periods"]["block_0"]["mixer"]
    q, w = layer(join(moved, frozen))["q"], layer(plain.params)["q"]
    np.testing.assert_allclose(q.dense(), w + 2.0 * jnp.einsum("ndr,nrhk->ndhk", q.a, q.b), rtol=1e-5, atol=1e-6)
    o = layer(join(moved, frozen))["o"]
    np.testing.assert_allclose(
        o.dense(), layer(plain.params)["o"] + 2.0 * jnp.einsum("nhkr,nrd->nhkd", o.a, o.b), rtol=1e-5, atol=1e-6
    )


def test_dora_begins_at_the_base_and_trains_lengths():
    """m v / |v|, the norm held fixed; the scale of rsLoRA."""
    run = dataclasses.replace(RUN, trains=LoRA(rank=4, alpha=6.0, of="q|o", dora=True, rslora=True))
    state, frozen = setup(run).create()
    plain, _ = setup(dataclasses.replace(RUN, trains=tiny.run().trains)).create()
    chex.assert_trees_all_close(dense(join(state.params, frozen)), plain.params, rtol=1e-4)
    moved = join(jax.tree.map(lambda x: x + 0.1, state.params), frozen)
    o = moved["segment_0"]["periods"]["block_0"]["mixer"]["o"]
    v = o.w + 3.0 * jnp.einsum("nhkr,nrd->nhkd", o.a, o.b)
    np.testing.assert_allclose(o.dense(), o.magnitude * v / np.sqrt((v**2).sum((1, 2), keepdims=True)), rtol=1e-5)
    after, _, _ = take(run)
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), after.params, state.params)
    assert len(jax.tree.leaves(changed)) == 3 * 3 * 2 and all(jax.tree.leaves(changed))


def test_gradients_moments_and_checkpoints_are_of_the_adapters_alone():
    state, frozen, _ = take(RUN)
    # q, o of three kinds of layer; up and gate of the dense ones and, for each expert, of the mixture
    sizes = {tuple(x.shape) for x in jax.tree.leaves(state.params)}
    assert sizes == {
        (2, 32, 3), (2, 3, 4, 8), (2, 4, 8, 3), (2, 3, 32), (2, 3, 64),
        (2, 8, 32, 3), (2, 8, 3, 16),
        (1, 32, 3), (1, 3, 4, 8), (1, 4, 8, 3), (1, 3, 32), (1, 3, 64),
    }  # fmt: skip
    adapters = sum(x.size for x in jax.tree.leaves(state.params))
    moments = sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim)
    assert moments == 2 * adapters < sum(x.size for x in jax.tree.leaves(frozen)) / 2
    before = setup(RUN).create()[1]
    chex.assert_trees_all_equal(frozen, before)
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), state.params, setup(RUN).create()[0].params)
    assert all(jax.tree.leaves(changed))


@pytest.mark.parametrize("mesh", [MeshConfig(2, 2, 2), MeshConfig(1, 2, 2, expert=2, explicit=False)], ids=name)
def test_the_same_on_a_mesh(mesh):
    alone, sharded = take(RUN), take(RUN, mesh)
    np.testing.assert_allclose(sharded[2]["loss"], alone[2]["loss"], rtol=1e-5)
    chex.assert_trees_all_close(jax.device_get(sharded[0].params), jax.device_get(alone[0].params), atol=1e-3)


def test_a_base_in_four_bits():
    """QLoRA: what is trained and kept is the adapter, the base stays as it was quantised; on a mesh too."""
    run = dataclasses.replace(RUN, trains=LoRA(rank=3, alpha=6.0, of="q|o|ffn.up", base="nf4"))
    before = setup(run).create()[1]
    alone, sharded = take(run), take(run, MeshConfig(2, 2, 2))
    chex.assert_trees_all_equal(alone[1], before)
    q = alone[1]["segment_0"]["periods"]["block_0"]["mixer"]["q"].w
    assert q.codes.dtype == jnp.uint8 and q.scale.code.dtype == jnp.uint8
    np.testing.assert_allclose(sharded[2]["loss"], alone[2]["loss"], rtol=1e-5)
    chex.assert_trees_all_close(jax.device_get(sharded[0].params), jax.device_get(alone[0].params), atol=1e-3)


def test_no_more_than_one_layer_is_dense_at_a_time():
    """What the program for more layers needs beside its arguments grows by less than their dense weights."""

    def temporary(layers):
        block = BlockConfig(BLOCK.mixer, MLPConfig(F=4096))
        model = tiny.model(layers=(LayersConfig((block,), layers),), remat="full")
        ready = setup(tiny.run(model=model, trains=LoRA(of="up|gate|down"), batch=4))
        return ready.lower().compile().memory_analysis().temp_size_in_bytes

    dense = 3 * 32 * 4096 * 4  # bytes of a layer
    assert (temporary(8) - temporary(4)) / 4 < dense / 2


def test_decoding_and_forward_read_leaves():
    state, frozen, _ = take(RUN)
    params = join(state.params, frozen)
    batch = tiny.batch(2)
    out = lambda params: forward(MIXED.build(), params, batch["tokens"]).hidden_BTD
    np.testing.assert_allclose(out(params), out(dense(params)), atol=1e-5)


def test_what_cannot_be():
    with pytest.raises(
        UserError, match=r"trains=LoRA\(.*of='q_proj'.*\): the model has no such weights, it has embed.table"
    ):
        tiny.run(trains=LoRA(of="q_proj"))
    with pytest.raises(UserError, match="rank=0 must be at least 1"):
        LoRA(rank=0)
    assert abstract(MIXED)
