import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.decode import cache
from jaxlm.errors import UserError
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, Context, LayersConfig, MLAConfig, MLPConfig, RopeConfig
from jaxlm.ops.rope import DynamicNTK
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import lies, on
from tests.nn.test_attention import turned
from tests.weights import boxed, weights

RNG = np.random.default_rng(0)
B, T, D = 2, 6, 10
X = RNG.normal(size=(B, T, D)).astype(np.float32)
START = np.array([0, 2])  # left padding of the second row
SEGMENTS = (np.arange(T)[None] >= START[:, None]).astype(np.int32)
POSITIONS = np.maximum(np.arange(T)[None] - START[:, None], 0)
CONTEXT = Context(POSITIONS, SEGMENTS)
SIZES = {"H": 4, "K": 5, "R": 4, "J": 3, "L": 7}
CONFIGS = {
    "plain": MLAConfig(**SIZES),
    "short queries": MLAConfig(**SIZES, query_L=6, scale=0.8, bias=True, rope=RopeConfig(100.0)),
}


def built(c):
    return c.build(4, "mixer")


def paper(c, p):
    """Section 2.1 of DeepSeek-V2, one query of one head at a time."""
    rms = lambda x, name: x / np.sqrt((x**2).mean(-1, keepdims=True) + c.norm.eps) * p[name]["scale"]
    down = lambda name: X @ p[name] + p.get(f"{name}_bias", 0)
    c_BTL, r_BTR = rms(down("kv_down"), "kv_norm"), down("k_rope")
    q = np.einsum("btl,lhk->bthk", *((X, p["q"]) if c.query_L is None else (rms(down("q_down"), "q_norm"), p["q_up"])))
    y = np.zeros((B, T, D)) + p.get("o_bias", 0)
    for b, t, h in np.ndindex(B, T, c.H):
        scores, values = [], []
        for s in range(t + 1):
            if SEGMENTS[b, s] == SEGMENTS[b, t]:
                rotated = turned(c.rope, r_BTR[b, s][None], POSITIONS[b, s])[0]
                query = turned(c.rope, q[b, t, h, c.K :][None], POSITIONS[b, t])[0]
                score = q[b, t, h, : c.K] @ (c_BTL[b, s] @ p["k_up"][:, h]) + query @ rotated
                scores.append(score * (1 / math.sqrt(c.K + c.R) if c.scale is None else c.scale))
                values.append(c_BTL[b, s] @ p["v_up"][:, h])
        e = np.exp(scores)
        y[b, t] += e @ values / e.sum() @ p["o"][h]
    return y


@pytest.mark.parametrize("c", CONFIGS.values(), ids=CONFIGS)
def test_it_is_the_paper(c):
    p = weights(built(c), X, CONTEXT)
    y, state = jax.jit(lambda p: built(c).apply({"params": p}, X, CONTEXT))(p)
    np.testing.assert_allclose(y, paper(c, p), atol=2e-5)
    latent, rotated = state.value
    assert latent.shape == (B, T, c.L) and rotated.shape == (B, T, c.R)


DYNAMIC = MLAConfig(**SIZES, rope=RopeConfig(scaling=DynamicNTK(2.0, 3), interleaved=True))


@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("c", [*CONFIGS.values(), DYNAMIC], ids=[*CONFIGS, "dynamic"])
def test_a_past_is_as_good_as_the_whole_text(c, new):
    """Absorbed products read the cache as it is."""
    p, end = weights(built(c), X, CONTEXT), T - new
    whole, states = built(c).apply({"params": p}, X, CONTEXT)
    empty = c.init_cache(B, T + 2, jnp.float32)
    past = empty.write(jax.tree.map(lambda x: x[:, :end], states), jnp.int32(0))
    context = Context(POSITIONS[:, end:], SEGMENTS[:, end:], jnp.int32(end), START)
    y, found = jax.jit(lambda p, past: built(c).apply({"params": p}, X[:, end:], context, past))(p, past)
    np.testing.assert_allclose(y, whole[:, end:], atol=1e-5)
    for a, b in zip(found.value, states.value):
        np.testing.assert_allclose(a, b[:, end:], atol=1e-6)


@pytest.mark.parametrize("dtype, itemsize", [("bfloat16", 2), ("float32", 4)])
def test_the_cache_is_the_latent_and_the_rotated_key_of_every_token(dtype, itemsize):
    """(kv_lora_rank + qk_rope_head_dim) * layers * itemsize a token: DeepSeek-V2's 1152 bytes a layer in bfloat16."""
    deepseek = MLAConfig(H=128, K=128, R=64, J=128, L=512, query_L=1536)
    config = LMConfig(V=8, D=8, layers=(LayersConfig((BlockConfig(deepseek, MLPConfig(F=8)),), 60),))
    for length in (1, 1000):
        assert cache.nbytes(config, length, dtype) == (512 + 64) * 60 * itemsize * length
    with on(MeshConfig(2, 2, 2)):
        assert all(lies(x, "batch", None, None) for x in CONFIGS["plain"].init_cache(8, 4, jnp.float32).value)


def test_names_shapes_and_axes_of_the_weights():
    tree, down, up = (
        boxed(built(CONFIGS["short queries"]), X, CONTEXT),
        Axes(("embed", None), (0,)),
        (None, "heads", None),
    )
    norm, bias = {"scale": Axes((None,))}, Axes((None,))
    assert sharding.axes_of(tree) == {
        **{"q_down": down, "q_down_bias": bias, "q_norm": norm, "q_up": Axes(("embed", "heads", None), (0,))},
        **{"kv_down": down, "kv_down_bias": bias, "kv_norm": norm, "k_rope": down, "k_rope_bias": bias},
        **{"k_up": Axes(up, (0,)), "v_up": Axes(up, (0,)), "o": Axes(("heads", None, "embed"), (0, 1)), "o_bias": bias},
    }
    shapes = jax.tree.map(lambda x: x.shape, sharding.unbox(tree))
    assert (shapes["q_up"], shapes["k_up"], shapes["v_up"], shapes["o"]) == (
        (6, 4, 9),
        (7, 4, 5),
        (7, 4, 3),
        (4, 3, 10),
    )
    assert set(boxed(built(CONFIGS["plain"]), X, CONTEXT)) == {"q", "kv_down", "kv_norm", "k_rope", "k_up", "v_up", "o"}


@pytest.mark.parametrize("explicit", [True, False])
def test_on_meshes(explicit):
    c, x = CONFIGS["plain"], np.tile(RNG.normal(size=(1, T, 12)), (8, 1, 1)).astype(np.float32)
    at = Context(np.arange(T)[None])
    p, axes = weights(built(c), x, at), sharding.axes_of(boxed(built(c), x, at))
    step = Context(np.full((8, 1), T), np.ones((8, 1), int), jnp.int32(T), np.zeros(8, int))

    @jax.jit
    def run(p, x):
        def f(p, x):
            y, past = built(c).apply({"params": p}, x, at)
            return y, built(c).apply({"params": p}, x[:, :1], step, past)[0]

        y, pull = jax.vjp(f, p, x)
        return y, pull(y)

    expected = run(p, x)
    with on(MeshConfig(2, 2, 2, explicit=explicit)) as put:
        placed = jax.tree.map(lambda a, w: put(w, *a.names), axes, p, is_leaf=lambda a: isinstance(a, Axes))
        chex.assert_trees_all_close(run(placed, put(x, "batch", None, None)), expected, rtol=1e-4, atol=1e-4)


def test_half_precision():
    c = CONFIGS["short queries"]
    p = weights(built(c), X, CONTEXT)
    y, state = built(c).apply({"params": p}, jnp.asarray(X, jnp.bfloat16), CONTEXT)
    assert {a.dtype for a in (y, *state.value)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(np.float32(y), built(c).apply({"params": p}, X, CONTEXT)[0], atol=0.1)


def test_what_makes_no_sense():
    with pytest.raises(UserError, match="L=0 must be at least 1"):
        MLAConfig(**{**SIZES, "L": 0})
    with pytest.raises(UserError, match="turn pairs, but 1 of the head width 3"):
        MLAConfig(**{**SIZES, "R": 3})
