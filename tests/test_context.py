"""Positions of a row divided over devices: every architecture has the loss and the gradients of one device, and nothing
but the mesh changes."""

import dataclasses
import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import compat, models, sharding
from jaxlm.decode import generate, prepare
from jaxlm.errors import UserError
from jaxlm.losses import cross_entropy
from jaxlm.models import LM
from jaxlm.nn import BlockConfig, LinformerConfig, MLAConfig, SparseAttentionConfig
from jaxlm.ops import Strided
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train import step as steps
from jaxlm.train.setup import Setup
from tests import tiny
from tests.decode import models as zoo
from tests.meshes import name, on

MLP = zoo.MLP
MLA = MLAConfig(H=4, K=8, R=4, J=6, L=8, query_L=8)
MODELS = {
    **{kind: zoo.MODELS[kind] for kind in ("rope", "learned", "sinusoidal", "linear", "windows", "buckets", "gemma")},
    **{kind: zoo.MODELS[kind] for kind in ("gpt-oss", "llama4", "parallel", "differential")},
    "dynamic ntk": zoo.DYNAMIC["dynamic ntk"],
    "latent": zoo.lm((2, (BlockConfig(MLA, MLP),))),
    "sparse": zoo.lm((2, (BlockConfig(SparseAttentionConfig(H=4, K=8, G=2, pattern=Strided(2, 2)), MLP),))),
    "linformer": zoo.lm((1, (BlockConfig(LinformerConfig(H=4, K=8, S=16, L=4), MLP),))),
}
T, ROWS = 16, 4
EIGHT, HALF, MIXED = MeshConfig(1, context=8), MeshConfig(2, context=4), MeshConfig(1, fsdp=2, tensor=2, context=2)
AUTO = dataclasses.replace(MIXED, explicit=False)


def batch():
    """Two texts a row, packed, with padding behind."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, zoo.V, (ROWS, T + 1)).astype(np.int32)
    cuts = np.array([[6, 16], [9, 14], [3, 15], [8, 16]])
    at = np.arange(T)[None]
    segments = np.where(at < cuts[:, :1], 1, np.where(at < cuts[:, 1:], 2, 0)).astype(np.int32)
    positions = np.where(at < cuts[:, :1], at, at - cuts[:, :1]).astype(np.int32)
    return tokens[:, :-1], tokens[:, 1:], positions, segments


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradients(config, params, tokens, labels, positions, segments):
    def loss(params):
        out = LM(config).apply({"params": params}, tokens, positions, segments, method="forward")
        weights = jnp.ones(labels.shape) if segments is None else (segments > 0).astype(jnp.float32)
        out = cross_entropy(out.hidden_BTD, out.head_VD, labels, weights, softcap=config.softcap, chunk=2)
        return out.total / out.weight

    return jax.value_and_grad(loss)(params)


@functools.cache
def parameters(model):
    return jax.jit(lambda: sharding.unbox(models.init_boxed(MODELS[model], jax.random.key(0))))()


def compare(model, mesh, packed):
    config, params = MODELS[model], parameters(model)
    tokens, labels, positions, segments = batch()
    if not packed:
        positions = segments = None
    expected = jax.device_get(loss_and_gradients(config, params, tokens, labels, positions, segments))
    with on(mesh) as put:
        placed = jax.device_put(params, sharding.shardings(models.abstract(config)[1], params, compat.concrete_mesh()))
        rows = lambda x: None if x is None else put(x, "batch", "positions")
        found = loss_and_gradients(config, placed, *map(rows, (tokens, labels, positions, segments)))
        if mesh.explicit:
            same = jax.tree.map(lambda g, p: g.sharding.is_equivalent_to(p.sharding, g.ndim), found[1], placed)
            assert jax.tree.all(same), same
    chex.assert_trees_all_close(jax.device_get(found), expected, atol=1e-5, rtol=1e-5)


MIXED_TOO = ("rope", "gpt-oss", "differential", "latent")  # where heads are divided too
CASES = [*((model, HALF) for model in MODELS), *((model, MIXED) for model in MIXED_TOO), ("rope", AUTO)]


@pytest.mark.parametrize("model, mesh", CASES, ids=lambda x: x if isinstance(x, str) else name(x))
def test_every_architecture(model, mesh):
    compare(model, mesh, packed=model != "linformer")


@pytest.mark.parametrize("model, mesh", [("rope", EIGHT), ("learned", HALF)])
def test_rows_of_one_text(model, mesh):
    """Without positions and segments; four heads on eight devices are attended to in a ring."""
    compare(model, mesh, packed=False)


@pytest.mark.parametrize("model", ["windows", "latent", "linear", "differential"])
def test_decoding(model):
    """The prompt is read in pieces; the caches and each token are whole."""
    config, tree = prepare(MODELS[model], parameters(model))
    tokens, mask = zoo.prompts(9, 0, 3, 5, 1)
    run = lambda: generate(config, tree, tokens, mask_BT=mask, max_new_tokens=6)
    expected = run()
    with on(HALF):
        found = run()
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5)


def test_training_and_evaluation_steps():
    """Dropout is drawn and the optimizer joins in; the batch is placed as the mesh has it."""
    run = tiny.run(batch=4, model=tiny.model(dropout=0.3), accumulate=2)
    one = make_mesh(MeshConfig(data=1), jax.devices()[:1])

    def take(mesh):
        state = Setup(run, mesh).create()[0]
        with jax.set_mesh(mesh):
            state, metrics = jax.jit(Setup(run, mesh).train_step)(state, tiny.place(tiny.batch(4), mesh, 2))
            held_out = jax.jit(steps.make_eval_step(run))(state.params, None, tiny.place(tiny.batch(4, seed=1), mesh))
        return float(metrics["loss"]), float(metrics["grad_norm"]), float(held_out["nll"])

    found = take(make_mesh(MeshConfig(2, context=2, tensor=2)))
    np.testing.assert_allclose(found, take(one), rtol=1e-5)


def test_a_length_that_the_mesh_does_not_divide():
    run = tiny.run(data=dataclasses.replace(tiny.run().data, T=38))
    with pytest.raises(UserError, match=r"mesh context=8 does not divide data.T=38: the nearest that it does is 40"):
        _ = Setup(run, make_mesh(EIGHT)).batch


@pytest.mark.parametrize("mesh", [MeshConfig(1, context=4, tensor=2), EIGHT], ids=name)
def test_nothing_is_gathered_over_positions(mesh):
    """Of a model whose dimensions are all less than a row, no collective of the training step gives a whole row."""
    length = 1024
    run = tiny.run(batch=2, model=tiny.model(remat="attention"), data=dataclasses.replace(tiny.run().data, T=length))
    mesh = make_mesh(mesh)
    with jax.set_mesh(mesh):
        args = Setup(run, mesh).state, Setup(run, mesh).batch
        text = jax.jit(Setup(run, mesh).train_step).lower(*args).compile().as_text()
    kinds = r" (?:all-gather|all-reduce|all-to-all|reduce-scatter)(?:-start)?\("
    results = [line[: found.start()] for line in (text or "").splitlines() if (found := re.search(kinds, line))]
    assert len(results) > 10 and not [line for line in results if re.search(rf"[\[,]{length}[,\]]", line)]
