"""The layer against a loop over tokens and their experts; every router, both dispatches, every mesh."""

import dataclasses
import re
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import compat, models, sharding
from jaxlm.config_tree import from_dict, to_dict
from jaxlm.errors import UserError
from jaxlm.losses import cross_entropy
from jaxlm.models import LM, LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig, MoEConfig
from jaxlm.ops import routing
from jaxlm.sharding import Axes, MeshConfig
from jaxlm.train import balance
from tests.meshes import MESHES, lies, on
from tests.weights import boxed, weights

B, T, D, F, E, k = 8, 6, 16, 8, 6, 2
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)

CONFIGS = {
    "mixtral": MoEConfig(F=F, E=E, top_k=k),
    "qwen2": MoEConfig(F=F, E=E, top_k=k, norm_topk_prob=False, shared=MLPConfig(F=2 * F + 2), shared_gate=True),
    "deepseek2": MoEConfig(F=F, E=E, top_k=k, norm_topk_prob=False, groups=3, topk_group=2, scale=4.0, shared=2),
    "deepseek3": MoEConfig(
        F=F,
        E=E,
        top_k=k,
        score="sigmoid",
        score_correction_bias=True,
        groups=3,
        topk_group=2,
        group_score="top2",
        scale=2.5,
        shared=1,
    ),
    "gpt-oss": MoEConfig(F=F, E=E, top_k=k, activation="quick_gelu", limit=0.5, bias=True, router_bias=True),
    "llama4": MoEConfig(F=F, E=E, top_k=1, score="sigmoid", norm_topk_prob=False, weigh_input=True, shared=1),
    "plain": MoEConfig(F=F, E=E, top_k=3, activation="relu", gated=False, bias=True),
    "switch": MoEConfig(F=F, E=E, top_k=1, activation="relu", gated=False, norm_topk_prob=False, capacity_factor=1.0),
    "capped": MoEConfig(F=F, E=E, top_k=k, bias=True, capacity_factor=0.75),
    "rows": MoEConfig(F=F, E=3, top_k=1, activation="relu", gated=False, norm_topk_prob=False, row_capacity=2),
}


def mlp(c: MLPConfig, p: dict, x):
    """One token through one MLP."""
    h = c.hidden(lambda part: x @ p[part] + p.get(f"{part}_bias", 0))
    return h @ p["down"] + p.get("down_bias", 0)


def loop(c: MoEConfig, p: dict, x_BTD):
    """Token by token, expert by expert: which is chosen, is full, adds what."""
    x_MD = jnp.asarray(x_BTD).reshape(-1, D)
    logits_ME = x_MD @ p["router"] + p.get("router_bias", jnp.zeros(c.E))[None]
    weights_BTA, ids_BTA = routing.route(
        logits_ME[None],
        c.top_k,
        score=c.score,
        norm_topk_prob=c.norm_topk_prob,
        scale=c.scale,
        balance_E=p.get("balance"),
        groups=c.groups,
        topk_group=c.topk_group,
        group_score=c.group_score,
    )
    taken, rows = dict.fromkeys(range(c.E), 0), []
    most = c.slots(len(x_MD)) if c.row_capacity is None else c.row_capacity
    for m, ids in enumerate(np.asarray(ids_BTA[0])):
        y = jnp.zeros(D)
        if c.row_capacity is not None and m % T == 0:
            taken = dict.fromkeys(range(c.E), 0)
        for a, e in enumerate(ids.tolist()):
            if taken[e] == most:
                continue
            taken[e] += 1
            own = {part: w[e] for part, w in p.items() if part.split("_")[0] in ("gate", "up", "down")}
            weight = weights_BTA[0, m, a]
            y += mlp(c, own, weight * x_MD[m]) if c.weigh_input else weight * mlp(c, own, x_MD[m])
        if c.shared_mlp:
            gate = jax.nn.sigmoid(x_MD[m] @ p["shared_gate"]) if c.shared_gate else 1
            y += gate * mlp(c.shared_mlp, p["shared"], x_MD[m])
        rows.append(y)
    return jnp.stack(rows).reshape(x_BTD.shape)


def both(f, p, x):
    """Output and the gradients of a mixed sum of it."""
    mix = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    y, pull = jax.vjp(f, p, x)
    return y, pull(jnp.asarray(mix))


@pytest.mark.parametrize("which", CONFIGS)
def test_it_is_the_loop_over_tokens(which):
    c = CONFIGS[which]
    moe, x = c.build(3, "ffn"), X[:2]
    p = weights(moe, x)
    found = jax.jit(lambda p, x: both(lambda p, x: moe.apply({"params": p}, x)[0], p, x))(p, x)
    chex.assert_trees_all_close(found, both(lambda p, x: loop(c, p, x), p, x), atol=2e-5)


EVERYTHING = MoEConfig(
    F=F,
    E=E,
    top_k=k,
    score="sigmoid",
    score_correction_bias=True,
    router_bias=True,
    groups=3,
    topk_group=2,
    bias=True,
    shared=1,
    shared_gate=True,
)


def run(c: MoEConfig, p, x):
    """Output, statistics and gradients, through both."""

    def loss(p, x):
        y, s = cast(Any, c.build(3, "ffn").apply({"params": p}, x))
        mix = jnp.cos(jnp.arange(T * D, dtype=jnp.float32)).reshape(T, D)[None, : x.shape[1]]
        return jnp.sum(y * mix) + 10 * s["balance_loss"] + s["z_loss"], (y, s)

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(p, x)


def on_mesh(config, c: MoEConfig, p, x):
    moe = c.build(3, "ffn")
    axes = sharding.axes_of(boxed(moe, x))
    with on(config) as put:
        layout = sharding.shardings(axes, p, compat.concrete_mesh())
        found = jax.jit(lambda p, x: run(c, p, x))(jax.device_put(p, layout), put(x, "batch", None, None))
        if config.explicit:
            assert lies(found[0][1][0], *sharding.stream(x.shape[1]))
            assert jax.tree.all(jax.tree.map(lambda g, a: lies(g, *a.names), found[1][0], axes))
    return found


@pytest.fixture(scope="module")
def alone():
    """On one device; for T = 6 and 5, of which tensor parallelism divides one."""
    p = weights(EVERYTHING.build(3, "ffn"), X)
    return p, {t: jax.jit(lambda p, x: run(EVERYTHING, p, x))(p, X[:, :t]) for t in (6, 5)}


@pytest.mark.parametrize("config, t", [*((m, 6) for m in MESHES), *((m, 5) for m in MESHES[4:6])], ids=str)
def test_it_is_the_same_on_any_mesh(alone, config, t):
    p, expected = alone
    chex.assert_trees_all_close(on_mesh(config, EVERYTHING, p, X[:, :t]), expected[t], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [*MESHES[4:6], MeshConfig(2, context=2, tensor=2)], ids=str)
def test_on_a_mesh_the_capacity_is_of_each_device(config):
    c, rows, t = CONFIGS["capped"], B // (config.data * config.fsdp), T // config.context
    p = weights(c.build(3, "ffn"), X)
    (_, (y, found)), _ = on_mesh(config, c, p, X)
    one = jax.jit(lambda p, x: run(c, p, x))
    parts = [one(p, X[i : i + rows, j : j + t])[0][1] for i in range(0, B, rows) for j in range(0, T, t)]
    expected = np.stack([y for y, _ in parts]).reshape(-1, T // t, rows, t, D).swapaxes(1, 2)
    np.testing.assert_allclose(y, expected.reshape(X.shape), atol=1e-5)
    np.testing.assert_allclose(found["dropped"], np.mean([s["dropped"] for _, s in parts]), atol=1e-6)
    assert found["dropped"] > 0.1


# Experts divided


DIVIDED = [
    MeshConfig(1, expert=8),
    MeshConfig(2, expert=4),
    MeshConfig(1, fsdp=2, expert=2, tensor=2),
    MeshConfig(1, expert=2, context=2, tensor=2),
    MeshConfig(1, expert=2, context=2, tensor=2, explicit=False),
]
EIGHT = {
    "everything": dataclasses.replace(EVERYTHING, E=8, groups=4, top_k=3),
    "llama4": dataclasses.replace(CONFIGS["llama4"], E=8, bias=True, top_k=2),
}


@pytest.fixture(scope="module")
def eight():
    """On one device; for T = 4 and 1, of which context parallelism divides one."""
    found = {}
    for which, c in EIGHT.items():
        p = weights(c.build(3, "ffn"), X)
        found[which] = p, {t: jax.jit(lambda p, x, c=c: run(c, p, x))(p, X[:, :t]) for t in (4, 1)}
    return found


EVERYWHERE = [*(("everything", m, 4) for m in DIVIDED), ("everything", DIVIDED[3], 1)]
EVERYWHERE += [("llama4", m, 4) for m in DIVIDED[1:3]]


@pytest.mark.parametrize("which, config, t", EVERYWHERE, ids=str)
def test_it_is_the_same_where_experts_are_divided(eight, which, config, t):
    p, expected = eight[which]
    chex.assert_trees_all_close(on_mesh(config, EIGHT[which], p, X[:, :t]), expected[t], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config, weigh_input", [(DIVIDED[0], True), *((m, False) for m in DIVIDED[1:])], ids=str)
def test_capped_it_is_the_same_where_experts_are_divided(config, weigh_input):
    """As on a mesh that divides rows and positions alike, but not the experts."""
    c = dataclasses.replace(CONFIGS["capped"], E=8, weigh_input=weigh_input)
    p, x = weights(c.build(3, "ffn"), X), X[:, :4]
    (_, (_, found)), _ = divided = on_mesh(config, c, p, x)
    other = dataclasses.replace(config, data=config.data * config.expert, expert=1)
    chex.assert_trees_all_close(divided, on_mesh(other, c, p, x), atol=1e-5, rtol=1e-5)
    assert 0.1 < found["dropped"] < 0.5


@pytest.mark.parametrize("capacity", [1.0, None])
def test_what_is_communicated(capacity):
    """Of the tokens: by four all-to-alls with a capacity, there and back and their gradients; without one they are
    gathered and their results scattered, and the same for gradients."""
    c = MoEConfig(F=F, E=8, top_k=k, capacity_factor=capacity)
    moe = c.build(3, "ffn")
    shapes = sharding.unbox(boxed(moe, X))
    with on(MeshConfig(2, expert=4)):
        layout = sharding.shardings(sharding.axes_of(boxed(moe, X)), shapes, compat.concrete_mesh())
        place = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
        p = jax.tree.map(place, shapes, layout)
        x = place(X, jax.NamedSharding(compat.concrete_mesh(), sharding.spec("batch", None, None)))
        forward = lambda p, x: cast(Any, moe.apply({"params": p}, x))[0]
        programs = forward, jax.grad(lambda p, x: jnp.sum(jnp.square(forward(p, x))), (0, 1))
        texts = [jax.jit(f).lower(p, x).compile().as_text() for f in programs]

    def tokens(text: str, kind: str) -> int:
        """How often that gives numbers of D for each of T, or of each of a number of slots."""
        return len(re.findall(rf"= .*\[[\d,]*\b({T}|{c.slots(T)}),{D}\].* {kind}\(", text))

    kinds = ("all-to-all", "all-gather", "reduce-scatter", "all-reduce")
    found = [[tokens(text, kind) for kind in kinds] for text in texts]
    assert found == ([[2, 0, 0, 0], [4, 0, 0, 0]] if capacity else [[0, 1, 1, 0], [0, 2, 2, 0]])


MIXED = LMConfig(
    V=32, D=D, layers=(LayersConfig((BlockConfig(AttentionConfig(H=4, K=4), EIGHT["everything"]),), 2),), remat="mlp"
)


@jax.jit
def whole_model(p, tokens):
    def loss(p):
        out = LM(MIXED).apply({"params": p}, tokens, method="forward")
        nll = cross_entropy(out.hidden_BTD, out.head_VD, tokens, jnp.ones(tokens.shape))
        return nll.total / nll.weight + balance.auxiliary_loss(out.statistics, 0.5, 0.1), out.statistics

    return jax.value_and_grad(loss, has_aux=True)(p)


def test_a_model_has_the_same_loss_and_gradients_where_experts_are_divided():
    p = sharding.unbox(jax.jit(lambda: models.init_boxed(MIXED, jax.random.key(0)))())
    tokens = np.random.default_rng(0).integers(0, MIXED.V, (8, 8)).astype(np.int32)
    expected = whole_model(p, tokens)
    for config in (DIVIDED[2], DIVIDED[4]):
        with on(config) as put:
            layout = sharding.shardings(models.abstract(MIXED)[1], p, compat.concrete_mesh())
            found = whole_model(jax.device_put(p, layout), put(tokens, "batch", None))
        chex.assert_trees_all_close(found, expected, atol=1e-5, rtol=1e-5)
        loads = [s[0][1][()][0][0]["load"] for s in (found, expected)]
        np.testing.assert_array_equal(*loads)  # every token chose the same


def test_experts_that_the_mesh_does_not_divide():
    moe = CONFIGS["mixtral"].build(3, "ffn")
    found = boxed(moe, X)
    mesh = sharding.make_mesh(MeshConfig(2, expert=4))
    with pytest.raises(UserError, match=r"mesh expert=4 does not divide the 'experts' axis .* size 6: .* is 3"):
        sharding.shardings(sharding.axes_of(found), sharding.unbox(found), mesh)


def test_parameters_and_their_axes():
    found = boxed(EVERYTHING.build(3, "ffn"), X)
    inner, outer, third = ("experts", "expert_embed", "mlp"), ("experts", "mlp", "expert_embed"), k / E
    assert sharding.axes_of(found) == {
        "router": Axes(("embed", None), (0,)),
        "router_bias": Axes((None,)),
        "balance": Axes((None,)),
        "gate": Axes(inner, (1,), third),
        "up": Axes(inner, (1,), third),
        "down": Axes(outer, (1,), third),
        "gate_bias": Axes(("experts", "mlp"), (), third),
        "up_bias": Axes(("experts", "mlp"), (), third),
        "down_bias": Axes(("experts", None), (), third),
        "shared_gate": Axes(("embed", None), (0,)),
        "shared": {
            "gate": Axes(("embed", "mlp"), (0,)),
            "up": Axes(("embed", "mlp"), (0,)),
            "down": Axes(("mlp", "embed"), (0,)),
            "gate_bias": Axes(("mlp",)),
            "up_bias": Axes(("mlp",)),
            "down_bias": Axes((None,)),
        },
    }
    shapes = jax.tree.map(lambda x: x.shape, sharding.unbox(found))
    assert shapes["gate"] == shapes["up"] == (E, D, F) and shapes["down"] == (E, F, D)
    assert shapes["shared"]["up"] == (D, F) and shapes["router"] == (D, E)


def test_experts_begin_as_an_mlp_does():
    c = MoEConfig(F=64, E=16, top_k=2)
    p = sharding.unbox(jax.jit(c.build(3, "ffn").init)(jax.random.key(0), jnp.zeros((1, 1, 32))))["params"]
    deviations = [float(jnp.std(p[part])) for part in ("gate", "up", "down", "router")]
    np.testing.assert_allclose(deviations, [32**-0.5, 32**-0.5, (64 * 6) ** -0.5, 32**-0.5], rtol=0.06)


def test_half_precision_is_routed_in_float32():
    """A model in bfloat16 chooses by float32 logits, so near equals are told apart, and gives bfloat16."""
    c = CONFIGS["mixtral"]
    moe, x = c.build(3, "ffn"), jnp.asarray(X, jnp.bfloat16)
    p = weights(moe, x)
    p["router"] = np.tile(p["router"][:, :1], (1, E))
    p["router"][0] += np.arange(E) * 1e-4
    y, found = jax.jit(moe.apply)({"params": p}, x)
    best = np.float32(x[..., 0]) > 0  # the last two experts, else the first
    np.testing.assert_allclose(found["load"][-1], best.mean() / 2, atol=1e-6)
    assert y.dtype == jnp.bfloat16 and found["z_loss"].dtype == jnp.float32
    whole = jax.jit(moe.apply)({"params": p}, x.astype(jnp.float32))[0]
    np.testing.assert_allclose(np.float32(y), whole, atol=5e-2)


def test_tokens_do_not_meet():
    """Dropless: what a token gets depends on no other token. Capped: on no later one."""
    for which, seen in (("gpt-oss", np.eye(T, dtype=bool)), ("capped", None)):
        moe = CONFIGS[which].build(3, "ffn")
        p = weights(moe, X)
        f = jax.jit(lambda x, moe=moe, p=p: moe.apply({"params": p}, x)[0])
        for t in range(T):
            other = X[:1].copy()
            other[0, t] += 1
            moved = np.any(f(other) != f(X[:1]), -1)[0]
            assert not moved[:t].any() and moved[t]
            if seen is not None:
                np.testing.assert_array_equal(moved, seen[t])


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_k": 7}, "top_k=7 experts of E=6"),
        ({"groups": 4}, "groups=4 must divide E=6"),
        ({"groups": 3, "topk_group": 4}, "topk_group=4 be at most groups"),
        ({"groups": 6, "topk_group": 1}, "groups of 1 experts, 1 kept, are too small"),
        ({"groups": 6, "topk_group": 3, "group_score": "top2"}, "too small"),
        ({"capacity_factor": 0.0}, "capacity_factor=0.0 must be above 0"),
        ({"shared_gate": True}, "shared_gate needs a shared expert"),
        ({"activation": "sillu"}, "did you mean 'silu'"),
    ],
)
def test_what_cannot_be(wrong, words):
    with pytest.raises(UserError, match=words):
        MoEConfig(**{"F": F, "E": E, "top_k": k, **wrong})


def test_it_is_saved_and_loaded():
    c = CONFIGS["qwen2"]
    assert from_dict(to_dict(c)) == c
