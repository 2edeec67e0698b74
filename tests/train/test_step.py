"""One step: parts of a batch, meshes, steps that are not finite, moving average, what is reported."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm import compat, models, optim
from jaxlm.checkpoints.checkpoint import Checkpoints
from jaxlm.errors import UserError
from jaxlm.objectives import NextToken
from jaxlm.optim import OptimizerConfig
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train.setup import Setup
from tests import tiny
from tests.meshes import name

ONE = MeshConfig(data=1)


def take(run, batches, mesh_config=ONE):
    """The state and the metrics after these batches, on a mesh."""
    devices = jax.devices()[:1] if mesh_config == ONE else None
    mesh = make_mesh(mesh_config, devices)
    state = Setup(run, mesh).create()[0]
    layout = jax.tree.map(lambda x: x.sharding, Setup(run, mesh).state)
    with jax.set_mesh(mesh):
        step = jax.jit(Setup(run, mesh).train_step, donate_argnums=0, out_shardings=(layout, None))
        for batch in batches:
            state, metrics = step(state, tiny.place(batch, mesh, run.accumulate))
    return state, {k: float(v) for k, v in metrics.items()}


def close(a, b, atol=1e-5):
    chex.assert_trees_all_close(jax.device_get(a), jax.device_get(b), atol=atol, rtol=1e-5)


@pytest.fixture(scope="module")
def one_device():
    return take(tiny.run(batch=8), [tiny.batch(8, seed=s) for s in (0, 1)])


def test_a_step_is_the_optimizer_on_the_mean_gradient():
    run = tiny.run(batch=8, objective=NextToken(z_loss=1e-3, label_smoothing=0.1))
    batch, mesh = tiny.batch(8), make_mesh(ONE, jax.devices()[:1])
    before = jax.device_get(Setup(run, mesh).create()[0].params)
    after, metrics = take(run, [batch])

    def loss(params):
        logits = models.LM(run.model).apply({"params": params}, batch["tokens"], batch["positions"], batch["segments"])
        lse = jax.nn.logsumexp(logits, -1)
        picked = jnp.take_along_axis(logits, batch["labels"][..., None], -1)[..., 0]
        each = 0.9 * (lse - picked) + 0.1 * (lse - logits.mean(-1)) + 1e-3 * lse**2
        return (each * batch["weights"]).sum() / batch["weights"].sum()

    value, grads = jax.value_and_grad(loss)(before)
    tx = optim.make(run.optimizer, models.abstract(run.model)[1], run.steps)
    updates, _ = tx.update(grads, tx.init(before), before)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-5)
    assert metrics["sum/weight"] == batch["weights"].sum() and metrics["skipped"] == 0
    # Adam divides by the gradient's size, so what is rounding in a tiny gradient is not tiny in the update
    close(after.params, optax.apply_updates(before, updates), atol=2e-4)


def test_accumulated_parts_equal_the_whole_batch(one_device):
    parts = take(tiny.run(batch=8, accumulate=4), [tiny.batch(8, seed=s) for s in (0, 1)])
    np.testing.assert_allclose(parts[1]["loss"], one_device[1]["loss"], rtol=1e-5)
    np.testing.assert_allclose(parts[1]["grad_norm"], one_device[1]["grad_norm"], rtol=1e-5)


# tests/test_sharding.py has every mesh for loss and gradient; here the optimizer joins in
@pytest.mark.parametrize("mesh", [MeshConfig(2, 2, 2), MeshConfig(1, 8, 1, explicit=False)], ids=name)
def test_every_mesh_takes_the_same_steps(one_device, mesh):
    state, metrics = take(tiny.run(batch=8), [tiny.batch(8, seed=s) for s in (0, 1)], mesh)
    np.testing.assert_allclose(metrics["loss"], one_device[1]["loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], one_device[1]["grad_norm"], rtol=1e-5)
    close(state.params, one_device[0].params, atol=1e-3)


def test_dropout_is_the_same_on_every_mesh():
    run = tiny.run(batch=8, model=tiny.model(dropout=0.5))
    alone = take(run, [tiny.batch(8)])[1]["loss"]
    assert abs(alone - take(tiny.run(batch=8), [tiny.batch(8)])[1]["loss"]) > 1e-3
    np.testing.assert_allclose(take(run, [tiny.batch(8)], MeshConfig(data=2, fsdp=2, tensor=2))[1]["loss"], alone, 1e-5)


@pytest.mark.parametrize("optimizer", ["adafactor", "muon", "lion"])
def test_other_optimizers_on_a_mesh(optimizer):
    config = OptimizerConfig(optimizer, learning_rate=1e-3, weight_decay=0.0)
    run = tiny.run(batch=8, optimizer=config)
    alone = take(run, [tiny.batch(8, seed=s) for s in (0, 1)])[1]["loss"]
    meshed = take(run, [tiny.batch(8, seed=s) for s in (0, 1)], MeshConfig(data=2, fsdp=2, tensor=2))[1]["loss"]
    np.testing.assert_allclose(meshed, alone, rtol=1e-5)


def test_moments_in_host_memory_change_no_number(one_device, tmp_path):
    """And are saved and restored from there."""
    if compat.older(0, 10):
        with pytest.raises(UserError, match=r"optimizer\.offload on several CPU devices needs jax 0\.10 or newer"):
            compat.offload_needs_more("cpu", 8)
        pytest.skip("this jax cannot do it on several CPU devices")
    config = dataclasses.replace(tiny.run().optimizer, offload=True)
    run, batches = tiny.run(batch=8, optimizer=config), [tiny.batch(8, seed=s) for s in (0, 1)]
    state, metrics = take(run, batches, MeshConfig(2, 2, 2))
    np.testing.assert_allclose(metrics["loss"], one_device[1]["loss"], rtol=1e-5)
    layout = Setup(dataclasses.replace(run, mesh=MeshConfig(2, 2, 2)), make_mesh(MeshConfig(2, 2, 2))).state
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state, {})
        checkpoints.wait()
        restored = checkpoints.restore(layout)
    assert restored is not None
    for tree in (state, restored[1]):
        assert {x.sharding.memory_kind for x in jax.tree.leaves(tree.params)} == {"device"}
        assert {x.sharding.memory_kind for x in jax.tree.leaves(tree.opt_state) if x.ndim} == {"pinned_host"}
    chex.assert_trees_all_equal(jax.device_get(restored[1].opt_state), jax.device_get(state.opt_state))


def test_a_step_that_is_not_finite_changes_no_weight():
    run = tiny.run(ema=0.9)
    mesh = make_mesh(ONE, jax.devices()[:1])
    before, bad = jax.device_get(Setup(run, mesh).create()[0]), tiny.batch(4)
    bad["weights"][0, 0] = np.inf
    after, metrics = take(run, [bad])
    assert metrics["skipped"] == 1 and int(after.step) == 1
    counter = lambda x: jnp.issubdtype(x.dtype, jnp.integer)
    expected = jax.tree.map(lambda x: x + 1 if counter(x) else x, before.opt_state)
    assert 0 < sum(map(counter, jax.tree.leaves(expected))) < len(jax.tree.leaves(expected))
    bits = lambda s: jax.tree.map(lambda x: (x.dtype, x.tobytes()), jax.device_get((s.params, s.opt_state, s.ema)))
    assert bits(after) == bits(before.replace(opt_state=expected))


def test_moving_average():
    run = tiny.run(ema=0.75)
    mesh = make_mesh(ONE, jax.devices()[:1])
    start = jax.device_get(Setup(run, mesh).create()[0].params)
    state, _ = take(run, [tiny.batch(4)])
    close(state.ema, jax.tree.map(lambda a, b: 0.1 * a + 0.9 * b, start, jax.device_get(state.params)), 1e-7)
    assert state.eval_params is state.ema


def test_the_step_compiles_once_and_takes_nothing_from_the_host():
    run = tiny.run(steps=200)
    mesh = make_mesh(ONE, jax.devices()[:1])
    state = Setup(run, mesh).create()[0]
    with jax.set_mesh(mesh):
        step = jax.jit(Setup(run, mesh).train_step, donate_argnums=0)
        batches = [tiny.place(tiny.batch(4, seed=s), mesh, 1) for s in range(4)]
        state, _ = step(state, batches[0])
        with jax.transfer_guard("disallow"):
            for i in range(200):
                state, metrics = step(state, batches[i % 4])
    assert step._cache_size() == 1 and int(state.step) == 201
    assert np.isfinite(float(metrics["loss"]))


def test_state_is_divided_by_fsdp_and_given_back_in_place():
    run = tiny.run(batch=8)
    mesh = make_mesh(MeshConfig(data=1, fsdp=8))
    state = Setup(run, mesh).create()[0]
    total = sum(x.nbytes for x in jax.tree.leaves((state.params, state.opt_state)))
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves((state.params, state.opt_state)))
    assert held <= total / 8 * 1.05
    layout = jax.tree.map(lambda x: x.sharding, Setup(run, mesh).state)
    with jax.set_mesh(mesh):
        step = jax.jit(Setup(run, mesh).train_step, donate_argnums=0, out_shardings=(layout, None))
        new, _ = step(state, tiny.place(tiny.batch(8), mesh, 1))
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
    chex.assert_trees_all_equal(jax.tree.map(lambda x: x.sharding, new), layout)


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"batch=12 in 2 parts is 6 rows .* multiple of 8"):
        _ = Setup(tiny.run(batch=12, accumulate=2), make_mesh(MeshConfig(data=4, fsdp=1, tensor=2))).batch


def test_the_seed_makes_the_weights():
    mesh = make_mesh(ONE, jax.devices()[:1])
    make = lambda seed: jax.device_get(Setup(tiny.run(seed=seed), mesh).create()[0].params)
    chex.assert_trees_all_equal(make(0), make(0))
    assert not np.array_equal(make(0)["embed"]["table"], make(1)["embed"]["table"])


def test_run_config_refuses_what_cannot_be():
    with pytest.raises(UserError, match="accumulate=3 must divide batch=4"):
        tiny.run(accumulate=3)
    with pytest.raises(UserError, match="steps=0"):
        dataclasses.replace(tiny.run(), steps=0)


def test_counters_go_on_over_skipped_steps_and_weights_stay():
    """The logged rate is the one that the optimizer takes: one counter, whatever was skipped."""
    run = tiny.run(steps=8)
    run = dataclasses.replace(
        run, ema=0.999, optimizer=OptimizerConfig(name="sgd", learning_rate=1.0, warmup=4, weight_decay=0, clip=None)
    )
    bad = tiny.batch(4)
    bad["weights"] = bad["weights"] * np.float32("nan")
    state, metrics = take(run, [bad, bad, tiny.batch(4)])
    before, skipped = take(run, [bad, bad])
    assert int(skipped["skipped"]) == 1 and int(before.step) == 2
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, state.params, before.params))
    np.testing.assert_allclose(moved / metrics["grad_norm"], metrics["learning_rate"], rtol=1e-4)
    np.testing.assert_allclose(metrics["learning_rate"], optim.schedule(run.optimizer, 8)(2), rtol=1e-6)
    # After t steps the average takes 1 - (1 + t) / (10 + t) of the new weights, not 0.001 of them.
    for a, p, old in zip(*map(jax.tree.leaves, (state.ema, state.params, before.params))):
        np.testing.assert_allclose(a, 3 / 12 * old + 9 / 12 * p, rtol=1e-5, atol=1e-7)
