import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import config, models, sharding
from jaxlm.decode import cache
from jaxlm.errors import UserError
from jaxlm.models import LM, LMConfig, flops, mup
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    BranchConfig,
    BranchesConfig,
    Context,
    LayerNormConfig,
    LayersConfig,
    LinearAttentionConfig,
    LSTMConfig,
    MLPConfig,
    MoEConfig,
    RMSNormConfig,
)
from jaxlm.scaling import accounting
from jaxlm.sharding import Axes, MeshConfig
from jaxlm.train import balance
from tests import tiny
from tests.meshes import on
from tests.weights import boxed, weights

X = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
CONTEXT = Context(np.arange(6)[None])
ATTENTION, LINEAR, MLP = AttentionConfig(H=2, K=4), LinearAttentionConfig(H=2, K=4), MLPConfig(F=16)
EXPERTS = MoEConfig(F=8, E=4, top_k=2, score_correction_bias=True)
RMS, LAYER = RMSNormConfig(eps=0.1), LayerNormConfig(eps=0.1)
FOUR = BranchesConfig(
    (
        BranchConfig("ffn1", MLP, scale=0.5),
        BranchConfig("attention", ATTENTION),
        BranchConfig("linear", LINEAR, norm=None),
        BranchConfig("ffn2", EXPERTS, scale=0.5, norm_sum=LAYER),
    )
)
ONE = BranchesConfig((BranchConfig("linear", LINEAR),))
NAMES = {"mixer": "mixer", "ffn": "ffn", "norm1": "mixer_norm", "norm2": "ffn_norm"}


def renamed(p):
    """A block's weights, or their axes, as a layer of two branches has them."""
    name = lambda key: key if key in ("mixer", "ffn") else NAMES[key[:5]] + key[5:]
    return {name(key): tree for key, tree in p.items()}


@pytest.mark.parametrize(
    "how",
    [
        {"norm": RMS},
        {"norm": None, "norm_sum": LAYER},
        {"norm": RMS, "norm_out": RMS},
        {"norm": None, "norm_out": RMS, "scale": 0.3},
        {"norm": LAYER, "dropout": 0.5},
    ],
    ids=["pre", "post", "sandwich", "scaled", "dropout"],
)
def test_a_block_is_a_layer_of_two_branches(how):
    block = BlockConfig(ATTENTION, EXPERTS, **how)
    branches = BranchesConfig((BranchConfig("mixer", ATTENTION, **how), BranchConfig("ffn", EXPERTS, **how)))
    p = weights(block.build(3, "block"), X, CONTEXT)
    shapes = lambda tree: jax.tree.map(lambda x: x.shape, tree)
    assert shapes(renamed(p)) == shapes(sharding.unbox(boxed(branches.build(3, "block"), X, CONTEXT)))
    rngs = {"dropout": jax.random.key(0)}
    x, (state, statistics) = block.build(3, "block").apply({"params": p}, X, CONTEXT, rngs=rngs)
    found = branches.build(3, "block").apply({"params": renamed(p)}, X, CONTEXT, rngs=rngs)
    chex.assert_trees_all_equal(found, (x, ({"mixer": state}, statistics)))


def test_branches_are_added_in_turn():
    module = FOUR.build(3, "layer")
    p = weights(module, X, CONTEXT)
    assert set(p) == {*FOUR.parts, "ffn1_norm", "attention_norm", "ffn2_norm", "ffn2_norm_sum"}
    run = lambda c, name, *args: c.build(3, name).apply({"params": p[name]}, *args)
    norm = lambda name, x: RMSNormConfig().build(name).apply({"params": p[name]}, x)
    x = X + 0.5 * run(MLP, "ffn1", norm("ffn1_norm", X))[0]
    y, state = run(ATTENTION, "attention", norm("attention_norm", x), CONTEXT)
    x += y
    y, total = run(LINEAR, "linear", x, CONTEXT)
    x += y
    y, used = run(EXPERTS, "ffn2", norm("ffn2_norm", x))
    x = LAYER.build("n").apply({"params": p["ffn2_norm_sum"]}, x + 0.5 * y)
    found, (states, statistics) = jax.jit(module.apply)({"params": p}, X, CONTEXT)
    np.testing.assert_allclose(found, x, atol=1e-5)
    chex.assert_trees_all_close((states, statistics), ({"attention": state, "linear": total}, used), atol=1e-5)


def model(*layers, repeat=2, **changes):
    return LMConfig(V=32, D=8, layers=(LayersConfig(layers, repeat),), **changes)


TOKENS = np.random.default_rng(1).integers(0, 32, (8, 12))


def through(c, p, remat="none"):
    def loss(p):
        out = models.forward(LM(dataclasses.replace(c, remat=remat)), p, TOKENS)
        return jnp.mean(jnp.square(models.logits(c, out))), out.statistics

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(p)


@pytest.mark.parametrize(
    "mesh, remat",
    [
        (MeshConfig(2, 2, 2), "attention"),
        (MeshConfig(2, 2, 2, explicit=False), "none"),
        (MeshConfig(data=2, stage=2, expert=2), "full"),
    ],
    ids=["explicit", "auto", "stages"],
)
def test_a_model_of_them_on_meshes(mesh, remat):
    c = model(FOUR, ONE)
    p = weights(LM(c), TOKENS[:1, :1])
    expected = through(c, p)
    axes = models.abstract(c)[1]
    with on(mesh) as put:
        placed = jax.tree.map(lambda a, w: put(w, *a.names), axes, p, is_leaf=lambda a: isinstance(a, Axes))
        chex.assert_trees_all_close(through(c, placed, remat), expected, rtol=2e-4, atol=2e-5)


def test_decoding_goes_on_from_the_states():
    c = model(FOUR, ONE)
    p = jax.tree.map(jnp.asarray, weights(LM(c), TOKENS[:1, :1]))
    T, at = TOKENS.shape[1], 7
    expected = LM(c).apply({"params": p}, TOKENS)

    @jax.jit
    def step(tokens, first, pasts, end):
        positions = first + jnp.arange(tokens.shape[1])[None]
        out = models.forward(LM(c), p, tokens, positions, jnp.ones_like(tokens), pasts, end, jnp.zeros(8, jnp.int32))
        return models.logits(c, out), out.states

    caches = cache.empty(c, 8, T, jnp.float32, stacked=True)
    out = models.forward(LM(c), p, TOKENS[:, :at])
    caches = cache.write(caches, out.states, jnp.int32(0))
    for t in range(at, T):
        found, new = step(TOKENS[:, t : t + 1], t, caches, jnp.int32(t))
        np.testing.assert_allclose(found[:, 0], expected[:, t], atol=2e-5)
        caches = cache.write(caches, new, jnp.int32(t))


def test_what_walks_over_layers():
    """Counts, experts' balance and the base of a wider model, also of a block without a feed-forward."""
    alone = BlockConfig(LINEAR, None)
    c = model(FOUR, ONE, alone, repeat=1)
    assert [type(m) for m in flops.mixers(c)] == [AttentionConfig] + [LinearAttentionConfig] * 3
    scores = ATTENTION.score_flops(12) + 3 * LINEAR.score_flops(12)
    assert flops.train_flops(c, 12) == 6 * flops.matmul_parameters(c) + 3 * scores
    parts = accounting.parts(c, 12)
    assert sum(part.parameters for part in parts.values()) == flops.parameters(c)
    experts = 4 * 3 * 8 * 8 + 8 * 4 + 4
    assert parts["feed-forward"].parameters == 3 * 8 * 16 + experts
    assert parts["attention"].parameters == 4 * 4 * 8 * 8
    p = weights(LM(c), TOKENS[:1, :1])
    statistics = models.forward(LM(c), p, TOKENS).statistics
    assert len(balance.expert_layers(statistics)) == 1
    moved = balance.rebalance(c, p, p, statistics, 0.1)["segment_0"]["periods"]["block_0"]["ffn2"]["balance"]
    assert np.abs(moved - p["segment_0"]["periods"]["block_0"]["ffn2"]["balance"]).max() == pytest.approx(0.1, rel=1e-4)
    deep = mup.scaled(model(FOUR, ONE, repeat=4), model(FOUR, ONE, repeat=2))
    assert [b.scale for b in deep.layers[0].blocks[0].branches] == [0.25, 0.5, 0.5, 0.25]
    with pytest.raises(UserError, match="LinearAttentionConfig in BranchesConfig where it has another"):
        mup.scaled(model(ONE), model(alone))
    assert config.from_dict(config.to_dict(c)) == c


def test_parts_are_set_by_the_names_of_their_classes():
    block = "model.layers.0.blocks.0"
    changed = lambda *texts: config.override(tiny.run(), [f"{block}.{text}" for text in texts]).model
    set_to = lambda *texts: changed(*texts).layers[0].blocks[0]
    new = set_to('mixer={"type": "LSTMConfig", "Z": 8}', "ffn=none")
    assert (new.mixer, new.ffn) == (LSTMConfig(8), None)
    assert set_to('ffn={"F": 8}').ffn == MLPConfig(8)  # the one kind that all others are made from
    with pytest.raises(UserError, match=r'it needs a "type": one of AttentionConfig, .*LSTMConfig, GRUConfig'):
        set_to('mixer={"H": 3}')


@pytest.mark.parametrize(
    "branches, says",
    [
        ((), "at least one branch"),
        ((BranchConfig("a", MLP), BranchConfig("a", LINEAR)), "two branches of a layer are called 'a'"),
        ((BranchConfig("a", EXPERTS), BranchConfig("b", EXPERTS)), "one branch with experts"),
    ],
)
def test_what_makes_no_sense(branches, says):
    with pytest.raises(UserError, match=says):
        BranchesConfig(branches)


def test_a_branch_needs_a_name():
    with pytest.raises(UserError, match="such as 'attention', not ''"):
        BranchConfig("", MLP)
