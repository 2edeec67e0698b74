"""Cross attention as a branch of a decoder's layers, over the output of an encoder: trained, and step by step."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.decode import cache
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    BranchConfig,
    BranchesConfig,
    Context,
    CrossAttentionConfig,
    LayerNormConfig,
    LayersConfig,
    LSTMConfig,
    MLPConfig,
    PipelineConfig,
    Stack,
)
from jaxlm.nn.embed import Embed
from jaxlm.sharding import MeshConfig
from tests.meshes import name, on
from tests.weights import boxed, weights

V, D, B, S, T = 32, 16, 8, 12, 16
ATTENTION, MLP = AttentionConfig(H=4, K=8, G=2), MLPConfig(F=32)
POST = {"norm": None, "norm_sum": LayerNormConfig()}
ENCODER = LayersConfig((BlockConfig(dataclasses.replace(ATTENTION, causal=False), MLP),), 2)
DECODER = LayersConfig(
    (
        BranchesConfig(
            (
                BranchConfig("attention", ATTENTION),
                BranchConfig("cross", CrossAttentionConfig(H=4, K=8, G=2, bias=True)),
                BranchConfig("ffn", MLP),
            )
        ),
        BranchesConfig(
            (
                BranchConfig("lstm", LSTMConfig(16, H=2), **POST),
                BranchConfig("cross", CrossAttentionConfig(H=2, K=8, scale=1.0), **POST),
            )
        ),
    ),
    2,
)


class Model(nn.Module):
    remat: str = "none"
    stacked: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, source_BS, mask_BS, target_BT, positions_BT=None, end=None, pasts=None):
        embed, stack = (
            Embed(V, D, jnp.dtype(self.dtype), name="embed"),
            functools.partial(Stack, depth=4, remat=self.remat),
        )
        more = {"stacked": self.stacked, "pipeline": PipelineConfig(microbatches=2)}
        memory_BSD = None
        if source_BS is not None:
            context = Context(jnp.arange(source_BS.shape[1])[None], mask_BS.astype(jnp.int32))
            memory_BSD, _ = stack(ENCODER, name="encoder", **more)(embed(source_BS)[0], context)
        here = jnp.arange(target_BT.shape[1])[None] if positions_BT is None else positions_BT
        start_B = None if end is None else jnp.zeros(len(target_BT), jnp.int32)
        segments_BT = None if end is None else jnp.ones_like(target_BT)
        context = Context(here, segments_BT, end, start_B, memory_BSD=memory_BSD, memory_mask_BS=mask_BS)
        x_BTD, table_VD = embed(target_BT)
        x_BTD, (states, _) = stack(DECODER, name="decoder", **more)(x_BTD, context, pasts)
        x_BTD = sharding.constrain(x_BTD, *sharding.rows(target_BT.shape[1]))
        return sharding.einsum("btd,vd->btv", x_BTD, table_VD.astype(self.dtype)), states


RNG = np.random.default_rng(0)
SOURCE, TARGET = RNG.integers(0, V, (B, S)), RNG.integers(0, V, (B, T))
MASK = np.arange(S)[None] < RNG.integers(1, S + 1, (B, 1))
ARGS = SOURCE, MASK, TARGET


@functools.cache
def params(stacked=True):
    return jax.tree.map(jnp.asarray, weights(Model(stacked=stacked), *ARGS))


@pytest.mark.parametrize("stacked", [True, False])
def test_token_by_token_is_teacher_forcing(stacked):
    """The memory is read once, with the first tokens; then the states stand for it."""
    model, first = Model(stacked=stacked), 5
    expected, _ = jax.jit(model.apply)({"params": params(stacked)}, *ARGS)
    period = lambda: tuple(block.init_cache(B, T, jnp.float32) for block in DECODER.blocks)
    repeated = lambda x: jnp.broadcast_to(x[None], (DECODER.repeat, *x.shape))
    kept = lambda pasts: [layer["cross"] for period in ((pasts,) if stacked else pasts) for layer in period]
    empty = jax.tree.map(repeated, period()) if stacked else tuple(period() for _ in range(DECODER.repeat))

    @jax.jit
    def step(token, t, pasts):
        found, states = model.apply({"params": params(stacked)}, None, MASK, token, t[None, None], t, pasts)
        return found[:, 0], cache.write(pasts, states, t)

    found, states = jax.jit(model.apply)({"params": params(stacked)}, SOURCE, MASK, TARGET[:, :first])
    np.testing.assert_allclose(found, expected[:, :first], atol=1e-5)
    pasts = cache.write(empty, states, jnp.int32(0))
    for t in range(first, T):
        found, after = step(TARGET[:, t : t + 1], jnp.int32(t), pasts)
        np.testing.assert_allclose(found, expected[:, t], atol=1e-5)
        chex.assert_trees_all_equal(kept(after), kept(pasts))
        pasts = after


def numbers(remat="none", mesh=None, dtype="float32"):
    """The loss and all gradients, the encoder's through the memory."""

    def loss(p, *args):
        logits, _ = Model(remat=remat, dtype=dtype).apply({"params": p}, *args)
        return jnp.mean(jnp.square(logits.astype(jnp.float32)))

    axes = sharding.axes_of(boxed(Model(), *ARGS))
    p = params()
    with on(mesh) as put:
        placed = jax.tree.map(lambda a, w: put(w, *a.names), axes, p, is_leaf=lambda a: isinstance(a, sharding.Axes))
        return jax.device_get(jax.jit(jax.value_and_grad(loss))(placed, *(put(x, "batch", None) for x in ARGS)))


@functools.cache
def alone():
    found = numbers()
    assert all(np.abs(g).max() > 1e-5 for g in jax.tree.leaves(found[1]["encoder"]))
    return found


@pytest.mark.parametrize(
    "remat, mesh",
    [
        ("full", None),
        ("attention", MeshConfig(2, 2, 2)),
        ("none", MeshConfig(data=2, context=2, tensor=2)),
        ("none", MeshConfig(data=2, stage=2, fsdp=2)),
        ("none", MeshConfig(data=2, stage=2, tensor=2, explicit=False)),
    ],
    ids=lambda x: x if isinstance(x, str) else name(x) + "-stages" * (x is not None and x.stage > 1),
)
def test_no_mesh_nor_rematerialisation_changes_a_number(remat, mesh):
    chex.assert_trees_all_close(numbers(remat, mesh), alone(), rtol=1e-4, atol=1e-5)


def test_a_pipeline_in_bfloat16():
    found = numbers("none", MeshConfig(data=2, stage=2, fsdp=2), "bfloat16")
    chex.assert_trees_all_close(found, alone(), rtol=0.1, atol=0.05)
