"""Maximal-update parametrisation: what each weight gets, and that growth then changes no activation's moves."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxlm import models, sharding
from jaxlm.errors import UserError
from jaxlm.models import LMConfig, mup
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    LayersConfig,
    LinearAttentionConfig,
    MLAConfig,
    MLPConfig,
    MoEConfig,
    ParallelConfig,
    SparseAttentionConfig,
)
from jaxlm.ops.sparse import Local
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train.setup import Setup
from tests import tiny
from tests.meshes import MESHES, name
from tests.train.coordinates import slope


def setup(c: RunConfig) -> Setup:
    return Setup(c, make_mesh(MeshConfig(data=1), jax.devices()[:1]))


def model(D: int, N: int = 1, H: int = 4, G: int | None = None, mixer=None, ffn=None, **changes) -> LMConfig:
    block = BlockConfig(mixer or AttentionConfig(H=H, K=D // H, G=G), ffn or MLPConfig(F=2 * D))
    return LMConfig(**{"V": 264, "D": D, "layers": (LayersConfig((block,), N),), "tied": False} | changes)


def experts(D: int) -> LMConfig:
    """Latent attention with a latent of one width and queries' latent that grows, and experts."""
    mixer = MLAConfig(H=D // 16, K=16, R=8, J=16, L=24, query_L=D // 2)
    return model(D, mixer=mixer, ffn=MoEConfig(F=D, E=4, top_k=2, shared=1, shared_gate=True))


def run(model: LMConfig, base: LMConfig | None, **changes):
    how = {"optimizer": OptimizerConfig(learning_rate=3e-3, schedule="constant"), "batch": 8, "steps": 10} | changes
    return tiny.run(model=model if base is None else mup.scaled(model, base), mup_base=base, **how)


def by_name(tree) -> dict[str, float]:
    return {path[-1].key: x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def test_every_weight_has_its_rate_and_deviation():
    """Four times as wide, with two key/value heads as before."""
    wide, base = model(128, H=8, G=2), model(32, H=2, G=2)
    hidden, table = (1 / 4, 1), (1, 1)
    expected = {"q": hidden, "o": hidden, "up": hidden, "gate": hidden, "down": hidden, "table": table, "scale": table}
    expected |= dict.fromkeys(("head", "k", "v"), (1 / 4, 1 / 2))  # as many outputs as before
    assert by_name(mup.rates(wide, base)) == {name: rate for name, (rate, _) in expected.items()}
    assert by_name(mup.deviations(wide, base)) == {name: deviation for name, (_, deviation) in expected.items()}
    undone = by_name(mup.deviations(base, wide))
    assert undone == {name: 1 / deviation for name, (_, deviation) in expected.items()}


def test_experts_and_latents():
    found = by_name(mup.rates(experts(128), experts(32)))
    few = dict.fromkeys(("router", "shared_gate", "kv_down", "k_rope"), (1 / 4, 1 / 2))
    hidden = dict.fromkeys(("q_down", "q_up", "o", "up", "gate", "down"), (1 / 4, 1))
    fixed = dict.fromkeys(("k_up", "v_up", "table", "scale"), (1, 1))  # as many inputs as before
    expected = few | hidden | fixed | {"head": (1 / 4, 1 / 2)}
    assert found == {name: rate for name, (rate, _) in expected.items()}
    deviations = by_name(mup.deviations(experts(128), experts(32)))
    assert deviations == {name: deviation for name, (_, deviation) in expected.items()}


def test_scales_of_a_wide_and_deep_model():
    base = model(32, tied=True, embed_scale=3.0, logit_scale=2.0)
    deep = mup.scaled(model(128, N=4, tied=True), base)
    assert (deep.logit_scale, deep.embed_scale) == (0.5, 3.0)
    block = deep.layers[0].blocks[0]
    assert block.scale == 1 / 4 and block.mixer.scale == pytest.approx(8**-0.5 / 4)
    assert mup.scaled(deep, base) == deep and mup.scaled(base, base) == base
    assert by_name(mup.deviations(deep, base))["down"] == 2  # the initial size is no longer divided by the depth
    more_heads = mup.scaled(model(128, H=16), model(32))
    assert more_heads.logit_scale == 1 and more_heads.layers[0].blocks[0].mixer.scale is None


def test_a_run_starts_and_learns_accordingly():
    """Against updates written out: Adam's direction times each weight's rate, and decay times the one rate."""
    base = model(32)
    c = run(model(64), base)
    plain = dataclasses.replace(c, mup_base=None)
    key = jax.random.key(0)
    tx, plain_tx = setup(c).optimizer, setup(plain).optimizer
    params, standard = (jax.jit(lambda k, c=c: setup(c).begin(k)[0].params)(key) for c in (c, plain))
    chex.assert_trees_all_close(
        params, jax.tree.map(lambda x, y: x * y, standard, mup.deviations(c.model, base)), rtol=1e-6
    )
    grads = jax.tree.map(lambda x: x + 0.1, params)
    no_decay = dataclasses.replace(plain.optimizer, weight_decay=0.0)
    adam = setup(dataclasses.replace(plain, optimizer=no_decay)).optimizer
    updates, free, decayed = (
        jax.jit(t.update)(grads, jax.jit(t.init)(params), params)[0] for t in (tx, adam, plain_tx)
    )
    expected = jax.tree.map(lambda u, d, rate: u * rate + (d - u), free, decayed, mup.rates(c.model, base))
    chex.assert_trees_all_close(updates, expected, atol=1e-7)


def test_without_a_base_nothing_changes():
    """Its own base changes nothing, and a run without one starts as the model does."""
    c = run(model(32), None)
    same = run(model(32), model(32))
    assert same.model == c.model
    key = jax.random.key(0)
    params, others = (jax.jit(lambda k, c=c: setup(c).begin(k)[0].params)(key) for c in (c, same))
    chex.assert_trees_all_equal(params, others)
    fresh = jax.jit(lambda k: sharding.unbox(models.init_boxed(c.model, jax.random.split(k)[0])))(key)
    chex.assert_trees_all_equal(params, fresh)


GROWN = {
    "wider heads": (model(64, G=2), model(256, G=2)),
    "more heads, tied": (model(64, tied=True), model(256, H=16, tied=True)),
    "experts": (experts(64), experts(256)),
}


@pytest.mark.parametrize("how", GROWN)
def test_a_step_moves_wide_models_as_far_as_narrow_ones(how):
    base, wide = GROWN[how]
    found = slope(run(base, None), run(wide, base), 4)
    assert abs(found["stream"]) < 0.15 and max(found.values()) < 0.1, found
    assert min(found.values()) > -0.6, found  # what weights start with adds moves that fade as width^-1/2


def test_a_step_moves_the_logits_of_wide_models_as_far():
    """Of a head that starts at zero, which shows its own learning alone."""
    base, wide = GROWN["wider heads"]
    found = slope(run(base, None), run(wide, base), 4, zero="head")
    assert abs(found["logits"]) < 0.2, found


def test_a_step_moves_standard_wide_models_further():
    base, wide = GROWN["wider heads"]
    found = slope(run(base, None), run(wide, None), 4)
    assert found["stream"] > 0.4 and found["scores"] > 0.4, found


def test_a_step_moves_deep_models_as_far_as_shallow_ones():
    base, deep = model(32), model(32, N=4)
    maximal, standard = (slope(run(base, None), run(deep, b), 4)["stream"] for b in (base, None))
    assert maximal < 0.1 and standard - maximal > 0.4, (maximal, standard)


@pytest.mark.slow
def test_the_best_learning_rate_of_a_small_model_is_that_of_a_wide_one():
    """Four times as wide, the best rate of a standard model is a quarter. Tokens follow from the two before them."""
    V, rates = 64, [4.0**-k for k in (5.5, 4.5, 3.5, 2.5)]
    table = jax.random.randint(jax.random.key(1), (8, V), 0, V)

    def text(key, rows=16, T=25):
        def token(pair, key):
            noise, flip = jax.random.randint(key, (rows,), 0, V), jax.random.uniform(key, (rows,)) < 0.1
            now = jnp.where(flip, noise, table[pair[0] % 8, pair[1]])
            return (pair[1], now), now

        first = jax.random.randint(key, (2, rows), 0, V)
        return jax.lax.scan(token, (first[0], first[1]), jax.random.split(key, T))[1].T

    def final_loss(c, rate, updates=150):
        how = OptimizerConfig(learning_rate=1.0, schedule="constant", weight_decay=0.0)
        object.__setattr__(how, "learning_rate", rate)  # traced: one compilation for all
        ready = setup(dataclasses.replace(c, optimizer=how))
        tx, (state, _) = ready.optimizer, ready.begin(jax.random.key(0))

        def loss(params, tokens_BT):
            logits = models.LM(c.model).apply({"params": params}, tokens_BT[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens_BT[:, 1:]).mean()

        def update(carry, key):
            value, grads = jax.value_and_grad(loss)(carry[0], text(key))
            updates, opt_state = tx.update(grads, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), opt_state), value

        keys = jax.random.split(jax.random.key(0), updates)
        return jax.lax.scan(update, (state.params, state.opt_state), keys)[1][-20:].mean()

    def best(D, base):
        c = run(model(D, V=V), base)
        return int(
            jnp.argmin(jax.jit(lambda rates: jax.lax.map(lambda rate: final_loss(c, rate), rates))(jnp.array(rates)))
        )

    base = model(32, V=V)
    assert best(128, base) == best(32, None) == best(128, None) + 1


@pytest.mark.parametrize("config", MESHES[-2:], ids=name)
def test_a_step_on_a_mesh_is_that_of_one_device(config):
    c = run(model(64, G=2), model(32, G=2))
    found = []
    for mesh in (make_mesh(MeshConfig(data=1), jax.devices()[:1]), make_mesh(config)):
        state, layout = Setup(c, mesh).create()[0], jax.tree.map(lambda x: x.sharding, Setup(c, mesh).state)
        with jax.set_mesh(mesh):
            step = jax.jit(Setup(c, mesh).train_step, out_shardings=(layout, None))
            for seed in range(2):
                state, _ = step(state, tiny.place(tiny.batch(8, seed=seed), mesh, 1))
        found.append(jax.tree.map(np.asarray, state.params))
    chex.assert_trees_all_close(*found, atol=1e-5)


@pytest.mark.parametrize(
    "wide, base, says",
    [
        (model(64), dataclasses.replace(model(32), layers=model(32).layers * 2), "1 groups of layers, not 2"),
        (
            model(64),
            model(32, mixer=LinearAttentionConfig(4, 8)),
            "AttentionConfig in BlockConfig where it has another",
        ),
        (
            model(64, mixer=SparseAttentionConfig(4, 16, Local(4, 1))),
            model(32, mixer=SparseAttentionConfig(4, 8, Local(4, 1))),
            "SparseAttentionConfig has no scale for another K than mup_base's",
        ),
    ],
)
def test_bases_that_do_not_fit(wide, base, says):
    with pytest.raises(UserError, match=says):
        mup.scaled(wide, base)


def test_more_bases_that_do_not_fit():
    parallel = lambda N: LMConfig(
        264, 32, (LayersConfig((ParallelConfig(AttentionConfig(H=4, K=8), MLPConfig(64)),), N),)
    )
    with pytest.raises(UserError, match="ParallelConfig has no scale for another depth"):
        mup.scaled(parallel(2), parallel(1))
    with pytest.raises(UserError, match="the model has other weights"):
        mup.rates(model(64), model(32, tied=True))
    with pytest.raises(UserError, match=r"model.logit_scale: 1.0 -> 0.5: make the model by jaxlm.models.mup.scaled"):
        tiny.run(model=model(64, tied=True, H=8), mup_base=model(32, tied=True))
    with pytest.raises(UserError, match="optimizer muon knows no learning rate for each weight: one of adam, "):
        _ = setup(run(model(64), model(32), optimizer=OptimizerConfig("muon"))).optimizer
