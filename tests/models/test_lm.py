import dataclasses
import functools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import models, sharding
from jaxlm.errors import UserError
from jaxlm.losses import cross_entropy
from jaxlm.models import LM, LMConfig
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    LayersConfig,
    LearnedConfig,
    MLPConfig,
    RMSNormConfig,
    RopeConfig,
    SinusoidalConfig,
    unstack,
)
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import on
from tests.weights import weights

V, D, T = 20, 12, 8
TOKENS = np.random.default_rng(0).permuted(np.tile(np.arange(V), (2, 1)), axis=1)[:, :T]  # no token twice in a row


def config(positions="rope", G=2, **changes) -> LMConfig:
    rope = RopeConfig() if positions == "rope" else None
    absolute = {"learned": LearnedConfig(16), "sinusoidal": SinusoidalConfig()}.get(positions)
    block = BlockConfig(AttentionConfig(H=4, K=6, G=G, rope=rope), MLPConfig(F=16))
    return dataclasses.replace(LMConfig(V, D, (LayersConfig((block,), 2),), absolute), **changes)


POSITIONS = ["rope", "learned", "sinusoidal", "none"]


@functools.cache
def params(c: LMConfig):
    return weights(LM(c), TOKENS)


@functools.partial(jax.jit, static_argnums=(0, 5))
def logits(c: LMConfig, params, tokens, positions=None, segments=None, stacked=True):
    return LM(c, stacked).apply({"params": params}, tokens, positions, segments)


@functools.partial(jax.jit, static_argnums=0)
def forward(c: LMConfig, params, tokens):
    return LM(c).apply({"params": params}, tokens, method="forward")


# What holds for every kind of positions and heads


@pytest.mark.parametrize(
    "positions, G, tied",
    [
        ("rope", 1, True),
        ("rope", 2, False),
        ("rope", 4, True),
        ("learned", 2, True),
        ("sinusoidal", 2, False),
        ("none", 2, True),
    ],
)
def test_no_gradient_flows_from_a_later_token(positions, G, tied):
    """From the hidden state at t to the embedding of every token of the row, through the table."""
    c = config(positions, G, tied=tied)
    assert ("head" in params(c)) != tied

    @jax.jit
    @jax.grad
    def flow(params, t):
        return forward.__wrapped__(c, params, TOKENS[:1]).hidden_BTD[0, t, 0]

    for t in range(T):
        through = np.abs(flow(params(c), t)["embed"]["table"]).sum(-1)[TOKENS[0]] > 1e-7
        np.testing.assert_array_equal(through, np.arange(T) <= t)
    out = logits(c, params(c), TOKENS)
    assert out.shape == (2, T, V) and out.dtype == jnp.float32


@pytest.mark.parametrize("positions", POSITIONS)
def test_left_padding_changes_nothing(positions):
    c, n = config(positions), 4
    alone = logits(c, params(c), TOKENS[:, n:])
    at = np.arange(T)[None] - np.array([[n], [n]])
    padded = np.where(at < 0, 7, TOKENS)
    found = logits(c, params(c), padded, at, (at >= 0).astype(np.int32))
    np.testing.assert_allclose(found[:, n:], alone, atol=2e-5)


@pytest.mark.parametrize("positions", POSITIONS)
def test_packed_texts_do_not_see_each_other(positions):
    c = config(positions)
    at, segments = np.tile([0, 1, 2, 3], (2, 2)), np.tile([1, 1, 1, 1, 2, 2, 2, 2], (2, 1))
    found = logits(c, params(c), TOKENS, at, segments)
    for part in (slice(0, 4), slice(4, T)):
        np.testing.assert_allclose(found[:, part], logits(c, params(c), TOKENS[:, part]), atol=2e-5)


@pytest.mark.parametrize("positions", POSITIONS)
def test_the_order_of_tokens_matters_where_there_are_positions(positions):
    """In one layer: attention itself does not know the order of what it sees."""
    c = config(positions)
    c = dataclasses.replace(c, layers=(dataclasses.replace(c.layers[0], repeat=1),))
    swapped = TOKENS[:, [1, 0, *range(2, T)]]
    change = np.abs(logits(c, params(c), TOKENS) - logits(c, params(c), swapped))[:, -1].max()
    assert (change < 1e-5) == (positions == "none")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype):
    c = config()
    out = logits(dataclasses.replace(c, dtype=dtype), params(c), TOKENS)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, logits(c, params(c), TOKENS), atol=0.1)
    assert jax.eval_shape(forward, dataclasses.replace(c, dtype=dtype), params(c), TOKENS).hidden_BTD.dtype == dtype


# Composition


def test_groups_run_in_order_and_unstacked_weights_give_the_same():
    local, full = (BlockConfig(AttentionConfig(H=2, K=6, window=w), MLPConfig(F=16)) for w in (2, None))
    c = LMConfig(V, D, (LayersConfig((local, full), 2), LayersConfig((full,))))
    assert c.depth == 5
    p = params(c)
    assert set(p) == {"embed", "norm", "segment_0", "segment_1"}
    apart = logits(c, unstack(p), TOKENS, None, None, False)
    np.testing.assert_allclose(logits(c, p, TOKENS), apart, atol=2e-5)
    first = dataclasses.replace(c, layers=c.layers[:1])
    assert np.abs(logits(c, p, TOKENS) - logits(first, p, TOKENS)).max() > 0.1  # the second one counts


@dataclasses.dataclass(frozen=True)
class Nothing:
    """A layer that adds nothing."""

    def build(self, depth, name):
        return Pass(name=name)


class Pass(nn.Module):
    @nn.compact
    def __call__(self, x_BTD, context, past=None):
        return x_BTD, ((), {})


def rms(x, scale, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


@pytest.mark.parametrize("tied", [True, False])
def test_around_the_layers(tied):
    """Every number and norm between tokens and logits, one after the other."""
    norms = {"embed_norm": RMSNormConfig(eps=0.3), "norm": RMSNormConfig(eps=0.1)}
    numbers = {"embed_scale": 3.0, "embed_width": 6, "logit_scale": 1.5, "softcap": 0.7}
    c = LMConfig(V, D, (LayersConfig((Nothing(),)),), tied=tied, **norms, **numbers)
    p = params(c)
    shapes = {"embed": {"table": (V, 6)}, "embed_in": (6, D), "embed_out": (D, 6)}
    shapes |= {name: {"scale": (D,)} for name in norms} | ({} if tied else {"head": (V, 6)})
    assert jax.tree.map(np.shape, p) == shapes
    x = rms(3 * p["embed"]["table"][TOKENS] @ p["embed_in"], p["embed_norm"]["scale"], 0.3)
    x = rms(x, p["norm"]["scale"], 0.1) @ p["embed_out"] * 1.5
    expected = 0.7 * np.tanh(x @ (p["embed"]["table"] if tied else p["head"]).T / 0.7)
    np.testing.assert_allclose(logits(c, p, TOKENS), expected, atol=1e-5)
    assert np.abs(expected).max() > 0.3
    out = forward(c, p, TOKENS)
    np.testing.assert_allclose(models.logits(c, out), expected, atol=1e-5)
    loss = cross_entropy(out.hidden_BTD, out.head_VD, TOKENS, np.ones(TOKENS.shape), softcap=c.softcap)
    logp = np.take_along_axis(np.asarray(jax.nn.log_softmax(expected)), TOKENS[..., None], -1)
    np.testing.assert_allclose(loss.total, -logp.sum(), rtol=1e-5)


def test_products_around_the_layers_on_meshes():
    c = config(embed_width=4, embed_norm=RMSNormConfig(), embed_scale=2.0, logit_scale=0.5, softcap=2.0)
    tokens = np.tile(TOKENS, (4, 1))
    expected, axes = logits(c, params(c), tokens), models.abstract(c)[1]
    for explicit in (True, False):
        with on(MeshConfig(2, 2, 2, explicit=explicit)) as put:
            placed = jax.tree.map(lambda a, w: put(w, *a.names), axes, params(c), is_leaf=lambda a: isinstance(a, Axes))
            np.testing.assert_allclose(logits(c, placed, put(tokens, "batch", None)), expected, atol=2e-5)


def test_layers_are_counted_through_the_groups():
    """Scores divided by the layer's number: the same layers cut otherwise are the same model."""
    block = BlockConfig(AttentionConfig(H=2, K=6, scale_by_layer=True), MLPConfig(F=16))
    one, two = (LMConfig(V, D, tuple(LayersConfig((block,), n) for n in repeat)) for repeat in ([3], [1, 2]))
    p = params(one)
    cut = lambda at: {"periods": jax.tree.map(lambda x: x[at], p["segment_0"]["periods"])}
    split = {**p, "segment_0": cut(slice(0, 1)), "segment_1": cut(slice(1, 3))}
    np.testing.assert_allclose(logits(two, split, TOKENS), logits(one, p, TOKENS), atol=1e-5)
    plain = dataclasses.replace(block, mixer=AttentionConfig(H=2, K=6))
    plain = dataclasses.replace(one, layers=(LayersConfig((plain,), 3),))
    assert np.abs(logits(plain, p, TOKENS) - logits(one, p, TOKENS)).max() > 1e-3


def test_dropout_of_the_embedding_needs_a_key():
    c = config()
    dropped = dataclasses.replace(c, dropout=0.5)
    np.testing.assert_array_equal(logits(dropped, params(c), TOKENS), logits(c, params(c), TOKENS))
    run = jax.jit(lambda key: LM(dropped).apply({"params": params(c)}, TOKENS, rngs={"dropout": key}))
    one, other = run(jax.random.key(0)), run(jax.random.key(1))
    assert np.abs(one - logits(c, params(c), TOKENS)).max() > 0.1 < np.abs(one - other).max()
    np.testing.assert_array_equal(one, run(jax.random.key(0)))


def test_states_and_statistics_come_back_by_segment():
    c = config()
    out = forward(c, params(c), TOKENS)
    ((state,),) = out.states
    keys, values = state.value
    assert keys.shape == values.shape == (2, 2, 2, T, 6)  # layers, B, G, T, K
    assert out.statistics == {(): (({},),)}


# Fresh parameters


def test_a_fresh_model_knows_nothing():
    """Every token equally likely, whatever the depth; the same key gives the same weights."""
    c = config(V=64, D=64)
    make = jax.jit(lambda key: sharding.unbox(models.init_boxed(c, key)))
    p = make(jax.random.key(0))
    logp = jax.nn.log_softmax(logits(c, p, TOKENS))
    assert abs(float(logp.mean()) + math.log(64)) < 0.05
    chex.assert_trees_all_equal(p, make(jax.random.key(0)))
    assert not np.array_equal(p["embed"]["table"], make(jax.random.key(1))["embed"]["table"])


@pytest.mark.parametrize("mesh", [None, MeshConfig(2, 2, 2)])
def test_abstract_parameters_on_any_mesh(mesh):
    c = config("learned", tied=False)
    with on(mesh):
        shapes, axes = models.abstract(c)
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, params(c))
    assert axes["head"] == Axes(("vocab", "embed"), (1,)) and axes["embed"]["table"] == Axes(("vocab", "embed"))
    q = axes["segment_0"]["periods"]["block_0"]["mixer"]["q"]
    assert q == Axes(("layers", "embed", "heads", None), (1,))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"V": 0}, "V=0 must be at least 1"),
        ({"layers": ()}, "at least one group"),
        ({"dtype": "float64"}, "unknown dtype 'float64': float32, bfloat16 or float16"),
        ({"remat": "atention"}, "unknown remat policy 'atention': did you mean 'attention'"),
    ],
)
def test_configs_that_make_no_sense(changes, words):
    with pytest.raises(UserError, match=words):
        config(**changes)
    with pytest.raises(UserError, match="17 tokens, but the model has learned positions for 16"):
        logits(config("learned"), params(config("learned")), np.zeros((1, 17), int))
