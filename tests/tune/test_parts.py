"""Every way of training a small part of a model: only that part moves, at first nothing has changed, any mesh."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.models import forward
from jaxlm.nn import AttentionConfig, BlockConfig, LayerNormConfig, LayersConfig, MLPConfig
from jaxlm.nn.virtual import VirtualConfig
from jaxlm.ops.leaves import LowRank, dense
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train.setup import Setup
from jaxlm.trains import Also, Only, join
from jaxlm.tune import Bottlenecks, LoRA, Virtual
from tests import tiny

D, F, N = 32, 64, 2
BLOCK = BlockConfig(
    AttentionConfig(H=4, K=8, G=2, bias=True, bias_out=True),
    MLPConfig(F=F, gated=False, activation="gelu", bias=True),
    norm=LayerNormConfig(),
)
MODEL = tiny.model(layers=(LayersConfig((BLOCK,), N),), norm=LayerNormConfig())
PROMPT, PREFIX = VirtualConfig(5), VirtualConfig(5, prefix=True)
LSTM = 2 * (D * 24 + 6 * 24 + 24) + 2 * (12 * 24 + 6 * 24 + 24) + 12 * 12 + 12 + 12 * D + D
METHODS = {  # virtual tokens, what trains, how many numbers
    "prompt": (PROMPT, Virtual(), 5 * D),
    "p-tuning mlp": (PROMPT, Virtual("mlp", hidden=6), 5 * D + (D * 6 + 6) + (6 * 6 + 6) + (6 * D + D)),
    "p-tuning lstm": (PROMPT, Virtual("lstm", hidden=6), 5 * D + LSTM),
    "prefix": (PREFIX, Virtual(), 5 * N * 2 * 2 * 8),
    "prefix mlp": (PREFIX, Virtual("mlp", hidden=6), 5 * 16 + (16 * 6 + 6) + 7 * N * 2 * 16),
    "houlsby": (None, Bottlenecks(4), N * 2 * (2 * D * 4 + 4 + D)),
    "pfeiffer": (None, Bottlenecks(4, of="ffn.down"), N * (2 * D * 4 + 4 + D)),
    "layer norms": (None, Only(r"norm\d?\."), 2 * D * (2 * N + 1)),
    "bitfit": (None, Only(r"bias$"), N * ((4 + 2 + 2) * 8 + D + F + D + 2 * D) + D),
    "frozen": (None, Only("embed", frozen=True), None),
    "lora": (None, LoRA(8, of="q|v"), 8 * N * (2 * D + 32 + 16)),
    "lora dropout": (None, LoRA(2, of="q|o|ffn.down", dropout=0.5), 2 * N * ((D + 32) * 2 + F + D)),
    "lora table": (None, LoRA(2, of="embed.table"), 2 * (264 + D)),
    "lora also": (None, Also(LoRA(2, of="q"), "norm1"), N * (2 * (D + 32) + 2 * D)),
    "lora ranks": (None, LoRA(2, of="q|ffn.up", ranks=(("ffn.up", 3),)), N * (2 * (D + 32) + 3 * (D + F))),
}


def run(name):
    virtual, trains, _ = METHODS[name]
    return tiny.run(model=tiny.model(layers=MODEL.layers, norm=MODEL.norm, virtual=virtual), trains=trains, batch=8)


def take(run, mesh=None, steps=2):
    config = MeshConfig(data=1) if mesh is None else mesh
    ready = Setup(run, make_mesh(config, None if mesh else jax.devices()[:1]))
    begun = ready.create()
    state, losses = begun[0], []
    with jax.set_mesh(ready.mesh):
        step = jax.jit(ready.train_step)
        for i in range(steps):
            state, metrics = step(state, tiny.place(tiny.batch(8, seed=i), ready.mesh, 1), begun[1])
            losses.append(float(metrics["loss"]))
    return begun, state, losses


@pytest.fixture(scope="module")
def plain_loss():
    return take(tiny.run(model=MODEL, batch=8), steps=1)[2][0]


@pytest.mark.parametrize("name", METHODS)
def test_only_the_part_is_trained(name, plain_loss):
    (begun, _), state, losses = take(run(name))
    size = sum(x.size for x in jax.tree.leaves(state.params))
    if METHODS[name][2] is not None:
        assert size == METHODS[name][2]
    moments = sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim)
    assert moments == 2 * size
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), state.params, begun.params)
    assert all(jax.tree.leaves(moved)), moved
    assert np.isfinite(losses).all()
    if METHODS[name][0] is None:  # at first it changes nothing
        np.testing.assert_allclose(losses[0], plain_loss, rtol=1e-5)


def test_optimizer_bytes_by_compilation():
    """The compiled step gets and gives adapters and their moments: three times their bytes, and frozen weights once."""
    ready = Setup(run("houlsby"), make_mesh(MeshConfig(data=1), jax.devices()[:1]))
    found = ready.lower().compile().memory_analysis()
    trained, frozen = (
        sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) for tree in (ready.state.params, ready.frozen)
    )
    assert found.output_size_in_bytes < 3 * trained + 2048
    assert found.argument_size_in_bytes < frozen + 3 * trained + 16384


@pytest.mark.parametrize("name", ["prompt", "prefix mlp", "houlsby", "lora dropout"])
def test_the_same_on_a_mesh(name):
    alone, sharded = take(run(name)), take(run(name), MeshConfig(2, 2, 2))
    np.testing.assert_allclose(sharded[2], alone[2], rtol=1e-5)
    chex.assert_trees_all_close(jax.device_get(sharded[1].params), jax.device_get(alone[1].params), atol=1e-3)


def test_dropout_is_of_training_alone():
    """On average a dropped-out change is the change; without a key nothing is dropped."""
    ws = [
        jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(6, 2, 3), (6, 4), (4, 2, 3), (2, 5, 6)])
    ]
    leaf = LowRank(*ws[:3], 0.5, (-3,), (-2, -1), dropout=0.5)
    product = lambda w: sharding.einsum("btd,dhk->bthk", ws[3], w)
    dropped = jax.jit(jax.vmap(lambda key: product(dataclasses.replace(leaf, key=key))))(
        jax.random.split(jax.random.key(7), 2000)
    )
    np.testing.assert_allclose(dropped.mean(0), product(leaf.dense()), atol=0.25)
    assert dropped.std(0).min() > 0.1
    (_, frozen), state, _ = take(run("lora dropout"), steps=1)
    params, model, tokens = join(state.params, frozen), run("lora dropout").model.build(), tiny.batch(2)["tokens"]
    out = jax.jit(lambda params, key: forward(model, params, tokens, dropout_key=key).hidden_BTD)
    np.testing.assert_allclose(out(params, None), out(dense(params), None), atol=1e-5)
    assert jnp.abs(out(params, jax.random.key(0)) - out(params, None)).max() > 1e-5


def test_bad_input():
    for trains, line in (
        (Virtual(), "the model has no virtual tokens"),
        (Bottlenecks(of="mixer.q"), "a bottleneck stands behind a branch of a layer"),
    ):
        with pytest.raises(UserError, match=line):
            tiny.run(trains=trains)
    with pytest.raises(UserError, match="a prefix is computed by an mlp"):
        tiny.run(model=tiny.model(virtual=PREFIX), trains=Virtual("lstm"))
    with pytest.raises(UserError, match="unknown network 'gru'"):
        Virtual("gru")
    with pytest.raises(UserError, match="leave dropout or dora out"):
        LoRA(dora=True, dropout=0.1)
    with pytest.raises(UserError, match="dropout is of plain products"):
        tiny.run(trains=LoRA(of="embed.table", dropout=0.1))
