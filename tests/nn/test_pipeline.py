"""A whole model on meshes that divide its layers: the same loss, gradients, statistics and texts as on one device."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import compat, models, sharding
from jaxlm.decode import generate, prepare
from jaxlm.errors import UserError
from jaxlm.models import LM
from jaxlm.nn import AttentionConfig, BlockConfig, Context, LayersConfig, MLPConfig, MoEConfig, PipelineConfig
from jaxlm.nn.pipeline import staged
from jaxlm.objectives import NextToken
from jaxlm.ops.dropout import dropout
from jaxlm.sharding import MeshConfig
from jaxlm.train import balance
from tests import tiny
from tests.meshes import on
from tests.train.test_step import take

DENSE = BlockConfig(AttentionConfig(H=4, K=8, G=2), MLPConfig(F=32))
EXPERTS = BlockConfig(AttentionConfig(H=4, K=8, window=8), MoEConfig(F=16, E=4, top_k=2, score_correction_bias=True))
# The first group of layers is too short for a pipeline and runs on every stage.
MODEL = tiny.model(layers=(LayersConfig((DENSE,), 1), LayersConfig((DENSE, EXPERTS), 8)))
BATCH = tiny.batch(16)  # packed: two documents a row, and padding


def changed(**changes):
    return dataclasses.replace(MODEL, **changes)


@functools.cache
def params():
    return jax.device_get(jax.jit(lambda key: sharding.unbox(models.init_boxed(MODEL, key)))(jax.random.key(0)))


def put_params(mesh):
    shapes, axes = models.abstract(MODEL)
    return jax.device_put(params(), sharding.shardings(axes, shapes, mesh))


def numbers(config, mesh_config):
    """Loss with the experts' losses, gradients, and the experts' statistics."""

    def loss(params, batch):
        out, statistics = NextToken().loss(config, params, batch)
        return out.total / out.weight + balance.auxiliary_loss(statistics, 1.0, 0.1), statistics

    f = jax.jit(jax.value_and_grad(loss, has_aux=True))
    with on(mesh_config) as put:
        p = params() if mesh_config is None else put_params(compat.concrete_mesh())
        return jax.device_get(f(p, {name: put(x, "batch", None) for name, x in BATCH.items()}))


@functools.cache
def alone():
    return numbers(MODEL, None)


@pytest.mark.parametrize(
    "mesh, changes",
    [
        (MeshConfig(data=2, stage=2, expert=2), {}),
        (MeshConfig(data=2, stage=2, context=2), {}),
        (MeshConfig(data=1, stage=2, fsdp=2, tensor=2), {"remat": "full"}),
        (MeshConfig(data=1, stage=2, fsdp=2, tensor=2, explicit=False), {}),
        (MeshConfig(data=2, stage=4), {"remat": "attention", "pipeline": PipelineConfig(remat=False)}),
        (MeshConfig(data=2, stage=4, explicit=False), {"pipeline": PipelineConfig(rounds=2)}),
        (MeshConfig(data=1, stage=8), {"pipeline": PipelineConfig(microbatches=5)}),
    ],
    ids=lambda x: "-".join(f"{k}{v}" for k, v in x.sizes.items() if v > 1) if isinstance(x, MeshConfig) else None,
)
def test_a_mesh_with_stages_changes_no_number(mesh, changes):
    chex.assert_trees_all_close(numbers(changed(**changes), mesh), alone(), rtol=1e-5, atol=1e-5)


def test_weights_lie_on_their_stage():
    with on(MeshConfig(data=1, stage=4, tensor=2)):
        placed = put_params(compat.concrete_mesh())
    spec = lambda group: placed[group]["periods"]["block_0"]["ffn"]["down"].sharding.spec
    assert spec("segment_0")[:2] == (None, "tensor") and spec("segment_1")[:2] == ("stage", "tensor")


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "auto"])
def test_texts_are_the_same(explicit):
    """Logits of three rows a device, and texts from both layouts of the weights."""
    tokens = BATCH["tokens"][:6, :9]
    logits = jax.jit(LM(MODEL).apply)({"params": params()}, tokens)
    new, logprobs = generate(MODEL, params(), tokens, max_new_tokens=4)
    with on(MeshConfig(data=2, stage=2, tensor=2, explicit=explicit)):
        placed = put_params(compat.concrete_mesh())
        np.testing.assert_allclose(jax.jit(LM(MODEL).apply)({"params": placed}, tokens), logits, atol=1e-5)
        for config, weights in [(MODEL, placed), prepare(MODEL, placed)]:
            found, found_logprobs = generate(config, weights, tokens, max_new_tokens=4)
            np.testing.assert_array_equal(found, new)
            np.testing.assert_allclose(found_logprobs, logprobs, atol=1e-5)


def test_a_step_of_training_in_parts():
    run = tiny.run(batch=16, accumulate=2, aux_loss_coef=0.1, bias_update_rate=0.01, model=MODEL)
    state, metrics = take(run, [BATCH], MeshConfig(data=2, stage=2, tensor=2))
    expected, expected_metrics = take(run, [BATCH])
    for name in ("loss", "grad_norm", "max_load"):
        np.testing.assert_allclose(metrics[name], expected_metrics[name], rtol=1e-5)
    balances = lambda s: jax.device_get(s.params["segment_1"]["periods"]["block_1"]["ffn"]["balance"])
    np.testing.assert_allclose(balances(state), balances(expected), atol=1e-6)


# Dropout


def test_dropout_depends_on_microbatches_and_not_on_stages():
    """Layer n of microbatch m draws with fold_in(split(key, M)[m], n)."""
    N, B, T, D, M = 4, 8, 2, 4, 2
    x_BTD = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)
    context = Context(jnp.arange(T)[None])

    def period(params, x_BTD, context, number, past, key):
        assert past is None and context.layer is None and context.positions_BT.shape == (1, T)
        return x_BTD + dropout(x_BTD, 0.5, key, "batch", None, None), ((), ())

    def run(x_BTD, key):
        config = PipelineConfig(microbatches=M)
        return staged(period, config, {}, jnp.arange(N), x_BTD, context, None, key)[0]

    key, expected = jax.random.key(1), np.zeros_like(x_BTD)
    for m in range(M):
        x = jnp.asarray(x_BTD[m::M])
        for n in range(N):
            x += dropout(x, 0.5, jax.random.fold_in(jax.random.split(key, M)[m], n))
        expected[m::M] = x
    for mesh in (MeshConfig(data=4, stage=2), MeshConfig(data=2, stage=4, explicit=False)):
        with on(mesh) as put:
            np.testing.assert_allclose(jax.jit(run)(put(x_BTD, "batch", None, None), key), expected, rtol=1e-5)


def test_a_model_with_dropout_trains_on_stages():
    block = dataclasses.replace(DENSE, dropout=0.5)
    run = tiny.run(batch=8, model=tiny.model(layers=(LayersConfig((block,), 4),)))
    loss = lambda mesh: take(run, [tiny.batch(8)], mesh)[1]["loss"]
    first = loss(MeshConfig(data=4, stage=2))
    assert np.isfinite(first) and first == loss(MeshConfig(data=4, stage=2))
    assert abs(first - take(tiny.run(batch=8, model=run.model), [tiny.batch(8)])[1]["loss"]) < 0.5


# How many microbatches, and what is refused


@pytest.mark.parametrize("most, rows, expected", [(None, 32, 8), (None, 6, 6), (3, 8, 2), (8, 1, 1), (5, 10, 5)])
def test_microbatches_divide_the_rows_of_a_device(most, rows, expected):
    assert PipelineConfig(microbatches=most).parts(rows, S=2) == expected


def test_layers_that_stages_do_not_divide():
    words = r"stage=3 does not divide the 'layers' axis of \['segment_1'\].*, which has size 8: the nearest .* is [24]"
    shapes, axes = models.abstract(MODEL)
    mesh = sharding.make_mesh(MeshConfig(data=2, stage=3), jax.devices()[:6])
    with pytest.raises(UserError, match=words):
        sharding.shardings(axes, shapes, mesh)
    with on(MeshConfig(data=1, stage=8)), pytest.raises(UserError, match=r"8 periods .* stage=8 in rounds=2"):
        LM(changed(pipeline=PipelineConfig(rounds=2))).apply({"params": params()}, BATCH["tokens"])
    with pytest.raises(UserError, match="microbatches=0 must be at least 1"):
        PipelineConfig(microbatches=0)
