import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import Context, LinearAttentionConfig
from jaxlm.ops import causal_linear_attention, elu_features
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import lies, on
from tests.weights import boxed, weights

RNG = np.random.default_rng(0)
B, T, D = 2, 7, 12
X = RNG.normal(size=(B, T, D)).astype(np.float32)
START = np.array([0, 2])  # left padding of the second row
POSITIONS = np.arange(T)[None] - START[:, None]
SEGMENTS = (POSITIONS >= 0).astype(np.int32)
CONTEXT = Context(POSITIONS, SEGMENTS)
C = LinearAttentionConfig(H=4, K=6)
MODULE = C.build(3, "mixer")


def test_it_projects_and_mixes():
    p = weights(MODULE, X, CONTEXT)
    q, k, v = (np.einsum("btd,dhk->bthk", X, p[name]) for name in "qkv")
    o, expected = causal_linear_attention(elu_features(q), elu_features(k), v, SEGMENTS)
    y, state = jax.jit(lambda p: MODULE.apply({"params": p}, X, CONTEXT))(p)
    np.testing.assert_allclose(y, np.einsum("bthk,hkd->btd", o, p["o"]), atol=1e-5)
    np.testing.assert_allclose(state.value, expected, atol=1e-5)


@pytest.mark.parametrize("new", [1, 3])
def test_a_past_is_as_good_as_the_whole_text(new):
    p = weights(MODULE, X, CONTEXT)
    apply = jax.jit(lambda x, context, past: MODULE.apply({"params": p}, x, context, past))
    cut = lambda at: (X[:, at], Context(POSITIONS[:, at], SEGMENTS[:, at]))
    whole, last = apply(X, CONTEXT, None)
    empty = C.init_cache(B, T, jnp.float32)
    _, state = apply(*cut(slice(T - new)), empty)
    assert state.value.shape == empty.value.shape and state.value.dtype == empty.value.dtype
    y, state = apply(*cut(slice(T - new, T)), state)
    np.testing.assert_allclose(y, whole[:, T - new :], atol=1e-5)
    np.testing.assert_allclose(state.value, last.value, atol=1e-5)


def test_the_state_has_one_size():
    shape = lambda length: C.init_cache(5, length, jnp.bfloat16).value.shape
    assert shape(1) == shape(10**6) == (5, 4, 6, 7)
    assert C.score_flops(1) == C.score_flops(10**6) == 4 * 4 * 6 * 7
    with on(MeshConfig(2, 2, 2)):
        assert lies(C.init_cache(8, 4, jnp.float32).value, "batch", "heads", None, None)


def test_names_shapes_and_axes_of_the_weights():
    tree = boxed(MODULE, X, CONTEXT)
    heads = Axes(("embed", "heads", None), (0,))
    assert sharding.axes_of(tree) == {"q": heads, "k": heads, "v": heads, "o": Axes(("heads", None, "embed"), (0, 1))}
    shapes = jax.tree.map(lambda x: x.shape, sharding.unbox(tree))
    assert shapes == {"q": (12, 4, 6), "k": (12, 4, 6), "v": (12, 4, 6), "o": (4, 6, 12)}


def test_half_precision():
    p = weights(MODULE, X, CONTEXT)
    y, state = MODULE.apply({"params": p}, jnp.asarray(X, jnp.bfloat16), CONTEXT)
    assert y.dtype == jnp.bfloat16 and state.value.dtype == jnp.float32
    np.testing.assert_allclose(np.float32(y), MODULE.apply({"params": p}, X, CONTEXT)[0], atol=0.1)


def test_no_heads():
    with pytest.raises(UserError, match="H=0 must be at least 1"):
        LinearAttentionConfig(H=0, K=6)
