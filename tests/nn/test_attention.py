import cmath
import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import (
    AlibiConfig,
    AttentionConfig,
    BucketsConfig,
    Context,
    KVSlots,
    LayerNormConfig,
    QKNormConfig,
    RMSNormConfig,
    RopeConfig,
    TemperatureConfig,
)
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import lies, on
from tests.ops.test_relative import slow_bucket
from tests.weights import boxed, weights

RNG = np.random.default_rng(0)
B, T, D = 2, 7, 12
X = RNG.normal(size=(B, T, D)).astype(np.float32)
START = np.array([0, 2])  # left padding of the second row
SEGMENTS = (np.arange(T)[None] >= START[:, None]).astype(np.int32)
POSITIONS = np.maximum(np.arange(T)[None] - START[:, None], 0)
PADDED = Context(POSITIONS, SEGMENTS, layer=2)

RMS, JOINT = QKNormConfig(RMSNormConfig(eps=0.01)), QKNormConfig(RMSNormConfig(eps=0.01), joint=True)
WARM = TemperatureConfig(0.7, 2.0)
CONFIGS = {
    "plain": AttentionConfig(H=4, K=6, implementation="reference"),
    "grouped": AttentionConfig(H=4, K=6, G=2, rope=RopeConfig(100.0), window=3, bias=True, bias_out=True),
    "multi-query": AttentionConfig(H=4, K=5, G=1, rope=None, bias=True),
    "scale and softcap": AttentionConfig(H=4, K=6, G=2, scale=0.9, softcap=0.8),
    "clip": AttentionConfig(H=4, K=6, clip_qkv=0.4),
    "norm": AttentionConfig(H=4, K=6, G=2, qk_norm=RMS),
    "norm of every head": AttentionConfig(H=4, K=6, G=2, qk_norm=QKNormConfig(LayerNormConfig(), per_head=True)),
    "joint norm": AttentionConfig(H=4, K=6, G=2, qk_norm=JOINT),
    "norm after rotation": AttentionConfig(H=4, K=6, qk_norm=dataclasses.replace(JOINT, after_rope=True)),
    "temperature": AttentionConfig(H=4, K=6, rope=None, attn_temperature=WARM),
    "by depth": AttentionConfig(H=4, K=6, scale_by_layer=True),
    "sinks": AttentionConfig(H=4, K=6, G=2, sinks=True, window=4),
    "alibi": AttentionConfig(H=4, K=6, rope=None, position_bias=AlibiConfig(6.0)),
    "buckets": AttentionConfig(H=4, K=6, G=2, rope=None, position_bias=BucketsConfig(4, 6)),
    "chunk": AttentionConfig(H=4, K=6, G=2, chunk=3, rope=RopeConfig(fraction=0.7, interleaved=True)),
    "every key": AttentionConfig(H=4, K=6, causal=False, position_bias=BucketsConfig(4, 6, bidirectional=True)),
    "everything": AttentionConfig(
        **{"H": 4, "K": 6, "G": 2, "window": 4, "chunk": 5, "scale": 0.5, "scale_by_layer": True, "softcap": 1.1},
        **{"sinks": True, "clip_qkv": 0.9, "qk_norm": JOINT, "attn_temperature": WARM, "bias": True, "bias_out": True},
        **{"rope": RopeConfig(50.0), "position_bias": AlibiConfig()},
    ),
}
LAYER = PADDED.layer


def built(config):
    return config.build(3, "mixer")


def normed(c, p, x_HK):
    """One vector a head, or all heads as one."""
    axes = (0, 1) if c.joint else 1
    if isinstance(c.norm, LayerNormConfig):
        x_HK = x_HK - x_HK.mean(axes, keepdims=True)
    y_HK = x_HK / np.sqrt((x_HK**2).mean(axes, keepdims=True) + c.norm.eps)
    return y_HK * p["scale"] + p.get("bias", 0)


def turned(c, x_HK, at):
    k = int(x_HK.shape[1] * c.fraction) // 2
    y_HK = x_HK.copy()
    for h, i in np.ndindex(len(x_HK), k):
        pair = [2 * i, 2 * i + 1] if c.interleaved else [i, i + k]
        z = complex(*x_HK[h, pair]) * cmath.exp(1j * at / c.base ** (i / k))
        y_HK[h, pair] = z.real, z.imag
    return y_HK


def heads(c, p, x, positions):
    """Queries, keys and values (B, T, heads, K), one token at a time."""
    found = {}
    for name in "qkv":
        y = np.float64(np.einsum("btd,dhk->bthk", x, p[name]) + p.get(f"{name}_bias", 0))
        y = y if c.clip_qkv is None else y.clip(-c.clip_qkv, c.clip_qkv)
        for b, t in np.ndindex(y.shape[:2]) if name != "v" else ():
            if c.qk_norm and not c.qk_norm.after_rope:
                y[b, t] = normed(c.qk_norm, p[f"{name}_norm"], y[b, t])
            if c.rope:
                y[b, t] = turned(c.rope, y[b, t], positions[b, t])
            if c.qk_norm and c.qk_norm.after_rope:
                y[b, t] = normed(c.qk_norm, p[f"{name}_norm"], y[b, t])
            if name == "q" and c.attn_temperature:
                y[b, t] *= 1 + c.attn_temperature.scale * math.log(1 + (positions[b, t] + 1) // c.attn_temperature.step)
        found[name] = y
    return found.values()


def bias_of(c, p, h, distance):
    if isinstance(c, AlibiConfig):
        return -abs(distance) * 2 ** (-c.steepest * (h + 1) / 4)
    return (
        0 if c is None else p["position_bias"]["table"][h, slow_bucket(distance, c.buckets, c.longest, c.bidirectional)]
    )


def visible(c, i, j):
    """Whether a query at i sees a key at j of the same text."""
    near = c.window is None or abs(i - j) < c.window
    return near and (j <= i or not c.causal) and (c.chunk is None or i // c.chunk == j // c.chunk)


def formula(c, p, x, positions, segments, layer=LAYER):
    """(B, T, D), one softmax at a time."""
    q, k, v = heads(c, p, x, positions)
    o = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, t, h in np.ndindex(q.shape[:3]):
        g, scores, values = h * c.groups // c.H, [], []
        for s in range(q.shape[1]):
            i, j = int(positions[b, t]), int(positions[b, s])
            if segments[b, t] == segments[b, s] and visible(c, i, j):
                score = q[b, t, h] @ k[b, s, g] * (c.K**-0.5 if c.scale is None else c.scale)
                score = score / (layer + 1) if c.scale_by_layer else score
                score = c.softcap * math.tanh(score / c.softcap) if c.softcap else score
                scores.append(score + bias_of(c.position_bias, p, h, i - j))
                values.append(v[b, s, g])
        e = np.exp(scores + ([p["sinks"][h]] if c.sinks else []))
        o[b, t, h] = e[: len(values)] @ values / e.sum()
    return np.einsum("bthk,hkd->btd", o, p["o"]) + p.get("o_bias", 0), k, v


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_the_formula(name):
    c = CONFIGS[name]
    p = weights(built(c), X, PADDED)
    expected, k, v = formula(c, p, X, POSITIONS, SEGMENTS)
    y, state = jax.jit(lambda p: built(c).apply({"params": p}, X, PADDED))(p)
    new_k, new_v = state.value
    real = SEGMENTS > 0
    np.testing.assert_allclose(y[real], expected[real], atol=1e-5)
    np.testing.assert_allclose(new_k, k.swapaxes(1, 2), atol=1e-5)
    np.testing.assert_allclose(new_v, v.swapaxes(1, 2), atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "everything"])
def test_without_segments_a_row_is_one_text(name):
    c, at = CONFIGS[name], np.arange(T)[None]
    p = weights(built(c), X, PADDED)
    y, _ = built(c).apply({"params": p}, X, Context(at, layer=LAYER))
    expected, *_ = formula(c, p, X, np.repeat(at, B, 0), np.ones((B, T)))
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_names_shapes_and_axes_of_the_weights():
    tree = boxed(built(CONFIGS["grouped"]), X, Context(POSITIONS))
    heads = Axes(("embed", "heads", None), (0,))
    assert sharding.axes_of(tree) == {
        **{"q": heads, "k": heads, "v": heads, "o": Axes(("heads", None, "embed"), (0, 1)), "o_bias": Axes((None,))},
        **{f"{name}_bias": Axes(("heads", None)) for name in "qkv"},
    }
    shapes = jax.tree.map(lambda x: x.shape, sharding.unbox(tree))
    assert shapes == {
        **{"q": (12, 4, 6), "k": (12, 2, 6), "v": (12, 2, 6), "o": (4, 6, 12)},
        **{"q_bias": (4, 6), "k_bias": (2, 6), "v_bias": (2, 6), "o_bias": (12,)},
    }
    assert set(boxed(built(CONFIGS["plain"]), X, Context(POSITIONS))) == set("qkvo")
    axes = sharding.axes_of(boxed(built(CONFIGS["everything"]), X, PADDED))
    assert axes["sinks"] == Axes(("heads",)) and "position_bias" not in axes  # ALiBi has no weights
    assert axes["q_norm"] == axes["k_norm"] == {"scale": Axes(("heads", None))}
    axes = sharding.axes_of(boxed(built(CONFIGS["buckets"]), X, PADDED))
    assert axes["position_bias"] == {"table": Axes(("heads", None))}


def test_dropout_needs_a_key():
    """With values of one and a head of its own for every entry, the output is what is left of the probabilities."""
    c = AttentionConfig(H=4, K=6, rope=None, causal=False, bias=True, dropout=0.5)
    p = jax.tree.map(np.zeros_like, weights(built(c), X, PADDED))
    p["v_bias"][:], p["o"][:] = 1, np.eye(24)[:, :D].reshape(4, 6, D)
    run = lambda **kwargs: np.asarray(built(c).apply({"params": p}, X, Context(np.arange(T)[None]), **kwargs)[0])
    np.testing.assert_allclose(run(), 1, atol=1e-6)
    first = run(rngs={"dropout": jax.random.key(0)})
    kept = first * T / 2  # each of T keys has 1 / T, doubled if it stays
    np.testing.assert_allclose(kept, kept.round(), atol=1e-4)
    assert len(np.unique(kept.round())) > 2 and (first != run(rngs={"dropout": jax.random.key(1)})).any()


@pytest.mark.parametrize("name", ["chunk", "everything"])
def test_no_gradient_flows_from_what_a_token_may_not_see(name):
    c = CONFIGS[name]
    p, at = weights(built(c), X, PADDED), np.arange(T)[None]
    f = lambda x: built(c).apply({"params": p}, x, Context(at))[0][0].sum(-1)
    through = np.abs(jax.jit(jax.jacobian(f))(X[:1])).sum((1, 3)) > 1e-7
    np.testing.assert_array_equal(through, [[visible(c, i, j) for j in range(T)] for i in range(T)])


@pytest.mark.parametrize("name", ["buckets", "everything"])
@pytest.mark.parametrize("explicit", [True, False])
def test_on_meshes(name, explicit):
    c, x = CONFIGS[name], np.tile(X, (4, 1, 1))
    p, axes = weights(built(c), X, PADDED), sharding.axes_of(boxed(built(c), X, PADDED))

    @jax.jit
    def run(p, x, positions, segments):
        f = lambda p, x: built(c).apply({"params": p}, x, Context(positions, segments, layer=LAYER))[0]
        y, pull = jax.vjp(f, p, x)
        return y, pull(y)

    rows = np.tile(POSITIONS, (4, 1)), np.tile(SEGMENTS, (4, 1))
    expected = run(p, x, *rows)
    with on(MeshConfig(2, 2, 2, explicit=explicit)) as put:
        placed = jax.tree.map(lambda a, w: put(w, *a.names), axes, p, is_leaf=lambda a: isinstance(a, Axes))
        found = run(placed, put(x, "batch", None, None), *(put(r, "batch", None) for r in rows))
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name, new",
    [(name, 1) for name, c in CONFIGS.items() if c.causal] + [("plain", 3), ("grouped", 3), ("everything", 3)],
)
def test_a_past_is_as_good_as_the_whole_text(name, new):
    """The last tokens, after a cache of exactly the slots that the config asks for (a ring when there is a window)."""
    c = CONFIGS[name]
    p = weights(built(c), X, PADDED)
    whole, states = built(c).apply({"params": p}, X, PADDED)
    (k, v), end = states.value, T - new
    cache = []
    for x, empty in zip((k, v), c.init_cache(B, T, jnp.float32).value):
        S = empty.shape[2]
        for t in range(end):
            empty = empty.at[:, :, t % S].set(x[:, :, t])
        cache.append(empty)
    context = Context(POSITIONS[:, end:], SEGMENTS[:, end:], jnp.int32(end), START, LAYER)
    step = jax.jit(lambda p, past: built(c).apply({"params": p}, X[:, end:], context, past))
    y, found = step(p, KVSlots(tuple(cache)))
    new_k, new_v = found.value
    np.testing.assert_allclose(y, whole[:, end:], atol=1e-5)
    np.testing.assert_allclose(new_k, k[:, :, end:], atol=1e-6)
    np.testing.assert_allclose(new_v, v[:, :, end:], atol=1e-6)


def test_a_cache_has_one_slot_a_token_or_the_window():
    assert [CONFIGS["plain"].state_slots(n) for n in (1, 100)] == [1, 100]
    assert [CONFIGS["grouped"].state_slots(n) for n in (1, 3, 100)] == [1, 3, 3]
    k, v = CONFIGS["grouped"].init_cache(5, 100, jnp.bfloat16).value
    assert k.shape == v.shape == (5, 2, 3, 6) and k.dtype == v.dtype == jnp.bfloat16
    assert [CONFIGS["chunk"].state_slots(n) for n in (1, 3, 100)] == [1, 3, 3]
    assert CONFIGS["everything"].state_slots(100) == 4
    with on(MeshConfig(2, 2, 2)):
        assert all(
            lies(x, "batch", "heads", None, None) for x in CONFIGS["grouped"].init_cache(8, 4, jnp.float32).value
        )


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"H": 6, "G": 4}, "G=4 key/value heads must divide H=6"),
        ({"H": 0}, "H=0 must be at least 1"),
        ({"H": 2, "G": 0}, "G=0 must be at least 1"),
        ({"H": 2, "K": 7}, "rotary positions turn pairs, but 1 of the head width 7 is 7"),
        ({"H": 2, "window": 0}, "window=0 must be at least 1"),
        ({"H": 2, "chunk": 0}, "chunk=0 must be at least 1"),
    ],
)
def test_configs_that_make_no_sense(kwargs, words):
    with pytest.raises(UserError, match=words):
        AttentionConfig(**{"K": 8, **kwargs})
    AttentionConfig(H=2, K=7, rope=None)


@pytest.mark.parametrize("name", ["grouped", "everything"])
def test_bfloat16(name):
    c = CONFIGS[name]
    p = weights(built(c), X, PADDED)
    y, state = built(c).apply({"params": p}, jnp.asarray(X, jnp.bfloat16), PADDED)
    assert {a.dtype for a in (y, *state.value)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(np.float32(y), built(c).apply({"params": p}, X, PADDED)[0], atol=0.1)
