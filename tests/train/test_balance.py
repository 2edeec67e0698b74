"""Losses and biases that keep experts evenly used, within a training step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import models
from jaxlm.errors import UserError
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig, MoEConfig
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train import balance
from jaxlm.train.setup import Setup
from tests import tiny

E, k, rows, RATE = 8, 2, 8, 0.02
MIXER = AttentionConfig(H=2, K=16)
MOE = MoEConfig(F=16, E=E, top_k=k, score_correction_bias=True, router_bias=True)
DENSE = BlockConfig(MIXER, MLPConfig(F=32))
MODEL = tiny.model(layers=(LayersConfig((DENSE,)), LayersConfig((BlockConfig(MIXER, MOE), DENSE), 2)))


def biased(state):
    """Routers that give nearly everything to the first two experts."""
    layer = state.params["segment_1"]["periods"]["block_0"]["ffn"]
    layer["router_bias"] = layer["router_bias"].at[:, :k].add(2.0)
    return state


def train(count: int, **changes):
    """State and metrics of every step from a lopsided start, on one device or the mesh given."""
    run = tiny.run(**{"model": MODEL, "batch": rows, **changes})
    mesh = make_mesh(run.mesh, None if "mesh" in changes else jax.devices()[:1])
    found, layout = [], jax.tree.map(lambda x: x.sharding, Setup(run, mesh).state)
    with jax.set_mesh(mesh):
        state = biased(Setup(run, mesh).create()[0])
        step = jax.jit(Setup(run, mesh).train_step, out_shardings=(layout, None))
        for i in range(count):
            state, metrics = step(state, tiny.place(tiny.batch(rows, seed=i), mesh, run.accumulate))
            found.append({name: float(x) for name, x in metrics.items()})
    return state, found


@jax.jit
def statistics(params, batch):
    out = models.forward(models.LM(MODEL), params, batch["tokens"], batch["positions"], batch["segments"])
    return out.statistics[()]


@pytest.fixture(scope="module")
def start():
    return biased(Setup(tiny.run(model=MODEL), make_mesh(tiny.run().mesh, jax.devices()[:1])).create()[0]).params


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step(start, accumulate):
    """The losses are means over layers and tokens; the balance moves by the sign of the load, and nothing else moves
    it."""
    state, (metrics,) = train(1, aux_loss_coef=0.5, router_z_loss=0.25, bias_update_rate=RATE, accumulate=accumulate)
    whole, size = tiny.batch(rows), rows // accumulate
    parts = [{name: x[i : i + size] for name, x in whole.items()} for i in range(0, rows, size)]
    layers = [statistics(start, part)[1][0] for part in parts]
    each = [0.5 * np.mean(layer["balance_loss"]) + 0.25 * np.mean(layer["z_loss"]) for layer in layers]
    np.testing.assert_allclose(
        metrics["loss"] - metrics["sum/nll"] / metrics["sum/weight"],
        np.average(each, weights=[part["weights"].sum() for part in parts]),
        rtol=1e-5,
    )
    load_NE = np.mean([layer["load"] for layer in layers], 0)
    assert load_NE.shape == (2, E)
    np.testing.assert_allclose(metrics["max_load"], load_NE.max() * E, rtol=1e-5)
    assert metrics["max_load"] > 2 and metrics["dropped"] == 0

    found = state.params["segment_1"]["periods"]["block_0"]["ffn"]["balance"]
    np.testing.assert_allclose(found, RATE * np.sign(1 / E - load_NE), atol=1e-7)
    moments = [x for path, x in jax.tree_util.tree_leaves_with_path(state.opt_state) if "balance" in str(path)]
    assert len(moments) == 2 and not np.any(moments)  # no gradient reached them


@pytest.mark.parametrize("mesh", [MeshConfig(2, 2, 2), MeshConfig(1, 2, 2, expert=2)], ids=["dense", "expert"])
def test_on_a_mesh_with_recomputation(mesh):
    changes = {"aux_loss_coef": 0.5, "bias_update_rate": RATE, "accumulate": 2}
    alone, found = train(1, **changes)
    model = dataclasses.replace(MODEL, remat="mlp")
    divided, other = train(1, **changes, model=model, mesh=mesh)
    np.testing.assert_allclose([*other[0].values()], [*found[0].values()], rtol=1e-5)
    balances = [s.params["segment_1"]["periods"]["block_0"]["ffn"]["balance"] for s in (alone, divided)]
    assert np.mean(np.isclose(*balances)) > 0.9  # where loads are even but for rounding, the sign is anything


def test_without_a_rate_the_balance_stays(start):
    params = dict(start, other=1.0)
    moved = jax.tree.map(lambda x: x + 1, params)
    same = balance.rebalance(MODEL, moved, params, {(): statistics(start, tiny.batch(2))}, 0.0)
    layer, old = (tree["segment_1"]["periods"]["block_0"]["ffn"] for tree in (same, params))
    np.testing.assert_array_equal(layer["balance"], old["balance"])
    np.testing.assert_array_equal(layer["router"], old["router"] + 1)


def test_each_method_evens_the_loads():
    """From two of eight experts taking nearly all; the most used has 4 even shares then."""
    optimizer = dataclasses.replace(tiny.run().optimizer, schedule="constant")
    last = lambda **changes: np.mean([m["max_load"] for m in train(30, optimizer=optimizer, **changes)[1][-3:]])
    none, loss, bias = last(), last(aux_loss_coef=1.0), last(bias_update_rate=RATE)
    assert none > 2.5
    assert loss < 0.75 * none and bias < 0.75 * none, (none, loss, bias)


def test_a_model_without_experts_reports_nothing():
    assert balance.report({(): (({},),)}) == {}
    assert balance.auxiliary_loss({(): (({},),)}, 1.0, 1.0) == jnp.zeros(())


def test_what_needs_experts_says_so():
    with pytest.raises(UserError, match="for models with experts"):
        tiny.run(aux_loss_coef=0.1)
    plain = dataclasses.replace(MOE, score_correction_bias=False)
    model = tiny.model(layers=(LayersConfig((BlockConfig(MIXER, plain),)),))
    assert tiny.run(model=model, aux_loss_coef=0.1).aux_loss_coef == 0.1
    with pytest.raises(UserError, match=r"bias_update_rate=0\.1 moves nothing: set score_correction_bias=true"):
        tiny.run(model=model, bias_update_rate=0.1)
