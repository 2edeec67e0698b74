import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import AttentionConfig, Context, RopeConfig
from jaxlm.ops import rotate
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import lies, on
from tests.ops.attention_cases import naive
from tests.weights import boxed, weights

RNG = np.random.default_rng(0)
B, T, D = 2, 7, 12
X = RNG.normal(size=(B, T, D)).astype(np.float32)
START = np.array([0, 2])  # left padding of the second row
POSITIONS = np.arange(T)[None] - START[:, None]
SEGMENTS = (POSITIONS >= 0).astype(np.int32)

CONFIGS = [
    AttentionConfig(H=4, K=6, implementation="reference"),
    AttentionConfig(H=4, K=6, G=2, rope=RopeConfig(100.0), window=3, bias=True, bias_out=True),
    AttentionConfig(H=4, K=5, G=1, rope=None, bias=True),
]


def built(config):
    return config.build(3, "mixer")


@pytest.mark.parametrize("c", CONFIGS, ids=["plain", "grouped", "multi-query"])
@pytest.mark.parametrize("padded", [True, False])
def test_it_is_the_formula(c, padded):
    context = Context(POSITIONS, SEGMENTS) if padded else Context(np.arange(T)[None])
    p = weights(built(c), X, context)
    project = lambda name: np.einsum("btd,dhk->bthk", X, p[name]) + p.get(f"{name}_bias", 0)
    q, k, v = project("q"), project("k"), project("v")
    if c.rope is not None:
        q, k = (rotate(x, context.positions_BT, c.rope.base) for x in (q, k))
    mask = np.ones((1, T, T), bool)
    if padded:
        mask = SEGMENTS[:, :, None] == SEGMENTS[:, None]
    mask = mask & np.tril(np.ones((T, T), bool))[None]
    if c.window is not None:
        mask = mask & np.triu(np.ones((T, T), bool), 1 - c.window)[None]
    expected = np.einsum("bthk,hkd->btd", naive(q, k, v, mask, c.K**-0.5), p["o"]) + p.get("o_bias", 0)
    y, (new_k, new_v) = jax.jit(lambda p: built(c).apply({"params": p}, X, context))(p)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    np.testing.assert_allclose(new_k, k.swapaxes(1, 2), atol=1e-5)
    np.testing.assert_allclose(new_v, v.swapaxes(1, 2), atol=1e-5)


def test_names_shapes_and_axes_of_the_weights():
    tree = boxed(built(CONFIGS[1]), X, Context(POSITIONS))
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
    assert set(boxed(built(CONFIGS[0]), X, Context(POSITIONS))) == set("qkvo")


@pytest.mark.parametrize("c", CONFIGS, ids=["plain", "grouped", "multi-query"])
@pytest.mark.parametrize("new", [1, 3])
def test_a_past_is_as_good_as_the_whole_text(c, new):
    """The last tokens, after a cache of exactly the slots that the config asks for (a ring when there is a window)."""
    p = weights(built(c), X, Context(POSITIONS, SEGMENTS))
    whole, (k, v) = built(c).apply({"params": p}, X, Context(POSITIONS, SEGMENTS))
    end = T - new
    cache = []
    for x, empty in zip((k, v), c.empty_state(B, T, jnp.float32)):
        S = empty.shape[2]
        for t in range(end):
            empty = empty.at[:, :, t % S].set(x[:, :, t])
        cache.append(empty)
    context = Context(POSITIONS[:, end:], SEGMENTS[:, end:], jnp.int32(end), START)
    step = jax.jit(lambda p, past: built(c).apply({"params": p}, X[:, end:], context, past))
    y, (new_k, new_v) = step(p, tuple(cache))
    np.testing.assert_allclose(y, whole[:, end:], atol=1e-5)
    np.testing.assert_allclose(new_k, k[:, :, end:], atol=1e-6)
    np.testing.assert_allclose(new_v, v[:, :, end:], atol=1e-6)


def test_a_cache_has_one_slot_a_token_or_the_window():
    assert [CONFIGS[0].state_slots(n) for n in (1, 100)] == [1, 100]
    assert [CONFIGS[1].state_slots(n) for n in (1, 3, 100)] == [1, 3, 3]
    k, v = CONFIGS[1].empty_state(5, 100, jnp.bfloat16)
    assert k.shape == v.shape == (5, 2, 3, 6) and k.dtype == v.dtype == jnp.bfloat16
    with on(MeshConfig(2, 2, 2)):
        assert all(lies(x, "batch", "heads", None, None) for x in CONFIGS[1].empty_state(8, 4, jnp.float32))


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"H": 6, "G": 4}, "G=4 key/value heads must divide H=6"),
        ({"H": 0}, "must divide H=0"),
        ({"H": 2, "G": 0}, "G=0 key/value heads"),
        ({"H": 2, "K": 7}, "rotary positions need an even head width, got K=7"),
        ({"H": 2, "window": 0}, "window=0 must be at least 1"),
    ],
)
def test_configs_that_make_no_sense(kwargs, words):
    with pytest.raises(UserError, match=words):
        AttentionConfig(**{"K": 8, **kwargs})
    AttentionConfig(H=2, K=7, rope=None)


def test_bfloat16():
    c, context = CONFIGS[1], Context(POSITIONS, SEGMENTS)
    p = weights(built(c), X, context)
    y, state = built(c).apply({"params": p}, jnp.asarray(X, jnp.bfloat16), context)
    assert {a.dtype for a in (y, *state)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(np.float32(y), built(c).apply({"params": p}, X, context)[0], atol=0.1)
