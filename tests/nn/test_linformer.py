import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import Context, LinformerConfig
from jaxlm.ops import linformer_attention
from jaxlm.sharding import Axes
from tests.weights import boxed, weights

X = np.random.default_rng(0).normal(size=(2, 5, 12)).astype(np.float32)
SEGMENTS = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
C = LinformerConfig(H=4, K=6, S=8, L=3)
MODULE = C.build(2, "mixer")


@pytest.mark.parametrize("segments", [SEGMENTS, None], ids=["padded", "whole"])
def test_it_projects_and_attends(segments):
    context = Context(np.arange(5)[None], segments)
    p = weights(MODULE, X, context)
    q, k, v = (np.einsum("btd,dhk->bthk", X, p[name]) for name in "qkv")
    o = linformer_attention(q, k, v, p["mix_keys"], p["mix_values"], None if segments is None else segments > 0)
    y, state = jax.jit(lambda p: MODULE.apply({"params": p}, X, context))(p)
    np.testing.assert_allclose(y, np.einsum("bthk,hkd->btd", o, p["o"]), atol=1e-5)
    assert state == ()


def test_names_shapes_and_axes_of_the_weights():
    tree = boxed(MODULE, X, Context(np.arange(5)[None]))
    heads, mix = Axes(("embed", "heads", None), (0,)), Axes((None, None), (1,))
    assert sharding.axes_of(tree) == {
        **{"q": heads, "k": heads, "v": heads, "o": Axes(("heads", None, "embed"), (0, 1))},
        **{"mix_keys": mix, "mix_values": mix},
    }
    shapes = jax.tree.map(lambda x: x.shape, sharding.unbox(tree))
    assert shapes["q"] == (12, 4, 6) and shapes["mix_keys"] == shapes["mix_values"] == (3, 8)


def test_half_precision():
    context = Context(np.arange(5)[None], SEGMENTS)
    p = weights(MODULE, X, context)
    y, _ = MODULE.apply({"params": p}, jnp.asarray(X, jnp.bfloat16), context)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(y), MODULE.apply({"params": p}, X, context)[0], atol=0.2)


def test_flops_of_the_mixtures():
    """Of a whole text: every mixture and its two uses, whatever counts the projections as matrices."""
    by_hand = 5 * 2 * 4 * (C.H * C.K * C.L)  # a product and a sum, for k, v, scores and values
    assert 5 * (C.score_flops(5) + 2 * (2 * C.L * C.S)) == by_hand


def test_what_makes_no_sense():
    with pytest.raises(UserError, match="1 <= L <= S, got H=4 K=6 L=9 S=8"):
        LinformerConfig(H=4, K=6, S=8, L=9)
    context = Context(np.arange(5)[None])
    with pytest.raises(UserError, match="cannot decode"):
        MODULE.apply({"params": weights(MODULE, X, context)}, X, context, ())
