import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import AttentionConfig, Context, DifferentialConfig, KVSlots
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import on
from tests.nn.test_attention import turned
from tests.weights import boxed, weights

RNG = np.random.default_rng(0)
B, T, D, K, LAYER = 2, 5, 10, 4, 3
X = RNG.normal(size=(B, T, D)).astype(np.float32)
CONTEXT = Context(np.arange(T)[None], layer=LAYER)
CONFIGS = {
    "multi-head": DifferentialConfig(H=4, K=K),
    "grouped": DifferentialConfig(H=8, K=K, G=4, rope=None),
    "one pair of key heads": DifferentialConfig(H=4, K=K, G=2, window=3),
    "one key head": DifferentialConfig(H=4, K=K, G=1),
    "odd key heads": DifferentialConfig(H=6, K=K, G=3, rope=None),
}


def built(c):
    return c.build(4, "mixer")


def paper(c, p, layer=LAYER):
    """Equations 1 to 3: one pair of heads, one query at a time."""
    q, k, v = (np.einsum("btd,dhk->bthk", X, p[name]) for name in "qkv")
    if c.rope:
        for b, t in np.ndindex(B, T):
            q[b, t], k[b, t] = turned(c.rope, q[b, t], t), turned(c.rope, k[b, t], t)
    start = 0.8 - 0.6 * math.exp(-0.3 * layer)
    dot = lambda i: math.exp(float(p[f"lambda_q{i}"] @ p[f"lambda_k{i}"]))
    mix = dot(1) - dot(2) + start
    y = np.zeros((B, T, D))
    for b, t, i in np.ndindex(B, T, c.H // 2):
        pair = [i, i + c.H // 2]  # query heads; head h reads key head h G / H
        keys = [h * c.groups // c.H for h in pair]
        seen = [s for s in range(T) if 0 <= t - s < (c.window or T)]
        values = np.concatenate([v[b, seen, g] for g in keys], -1)  # as wide as both heads
        one, two = (jax.nn.softmax(k[b, seen, g] @ q[b, t, h] * K**-0.5) for h, g in zip(pair, keys))
        o = np.asarray(one - mix * two) @ values
        o = (1 - start) * o / np.sqrt((o**2).mean() + c.eps)
        y[b, t] += o @ p["o"].reshape(c.H // 2, 2 * K, D)[i]
    return y


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("name", ["grouped", "one pair of key heads"])
def test_pairs_of_heads_on_different_devices(name, explicit):
    c, x = CONFIGS[name], np.tile(X, (2, 1, 1))
    p, axes = weights(built(c), X, CONTEXT), sharding.axes_of(boxed(built(c), X, CONTEXT))
    run = jax.jit(lambda p, x: built(c).apply({"params": p}, x, CONTEXT)[0])
    expected = run(p, x)
    with on(MeshConfig(2, 2, 2, explicit=explicit)) as put:
        placed = jax.tree.map(lambda a, w: put(w, *a.names), axes, p, is_leaf=lambda a: isinstance(a, Axes))
        np.testing.assert_allclose(run(placed, put(x, "batch", None, None)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("c", CONFIGS.values(), ids=CONFIGS)
def test_it_is_the_paper(c):
    p = weights(built(c), X, CONTEXT)
    y, _ = jax.jit(lambda p: built(c).apply({"params": p}, X, CONTEXT))(p)
    np.testing.assert_allclose(y, paper(c, p), atol=2e-5)


def test_the_mix_depends_on_the_layer_even_when_that_is_traced():
    c = CONFIGS["one key head"]
    p = weights(built(c), X, CONTEXT)
    run = jax.jit(lambda layer: built(c).apply({"params": p}, X, Context(np.arange(T)[None], layer=layer))[0])
    for layer in (0, 7):
        np.testing.assert_allclose(run(layer), paper(c, p, layer), atol=2e-5)


@pytest.mark.parametrize("c", CONFIGS.values(), ids=CONFIGS)
def test_a_past_is_as_good_as_the_whole_text(c):
    p, end = weights(built(c), X, CONTEXT), T - 1
    whole, states = built(c).apply({"params": p}, X, CONTEXT)
    past = c.init_cache(B, T, jnp.float32).value
    assert past[0].shape == past[1].shape == (B, c.groups, min(T, c.window or T), K)  # as of any attention
    for t in range(end):
        S = past[0].shape[2]
        past = tuple(cache.at[:, :, t % S].set(x[:, :, t]) for cache, x in zip(past, states.value))
    context = Context(np.full((B, 1), end), np.ones((B, 1), int), jnp.int32(end), np.zeros(B, int), LAYER)
    y, _ = built(c).apply({"params": p}, X[:, end:], context, KVSlots(past))
    np.testing.assert_allclose(y, whole[:, end:], atol=1e-5)


def test_names_shapes_and_axes_of_the_weights():
    c = CONFIGS["grouped"]
    tree, plain = (boxed(built(x), X, CONTEXT) for x in (c, AttentionConfig(H=8, K=K, G=4)))
    more = {f"lambda_{name}": Axes((None,)) for name in ("q1", "k1", "q2", "k2")}
    assert sharding.axes_of(tree) == sharding.axes_of(plain) | more
    assert {tree[name].value.shape for name in more} == {(K,)}


def test_values_are_twice_as_wide_in_flops():
    c = CONFIGS["grouped"]
    assert c.score_flops(T) == (2 * c.H * K + 2 * c.H * 2 * K) * T / 2


def test_odd_query_heads():
    with pytest.raises(UserError, match="pairs its heads: H=3 must be even"):
        DifferentialConfig(H=3, K=4)


def test_lambda_of_narrow_weights_is_summed_in_float32():
    c = CONFIGS["multi-head"]
    narrow = {
        key: w.astype(jnp.bfloat16) if key.startswith("lambda") else w
        for key, w in weights(built(c), X, CONTEXT).items()
    }
    wide = {key: w.astype(jnp.float32) for key, w in narrow.items()}
    y, expected = (built(c).apply({"params": p}, X, CONTEXT)[0] for p in (narrow, wide))
    np.testing.assert_array_equal(y, expected)
