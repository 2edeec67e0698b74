"""Quantised parameters serve as parameters do: scored, decoded, on every mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.decode import generate, prepare
from jaxlm.errors import UserError
from jaxlm.models import abstract, forward
from jaxlm.ops.leaves import Int8, dense
from jaxlm.trains import is_axes
from jaxlm.tune import quantize
from jaxlm.tune.quantize import axes_of, stored
from tests import tiny
from tests.weights import weights

MODEL = tiny.model()
TOKENS = np.arange(12).reshape(2, 6)
PARAMS = weights(MODEL.build(), TOKENS)
KINDS = [("fp8", 12, 0.03), ("fp8_e5m2", 12, 0.05), ("int4", 6, 0.12), ("nf4", 5, 0.1), ("ternary", 4, 0.6)]
SMALL = jax.jit(lambda params: quantize(MODEL, params))(PARAMS)


def test_matrices_inside_layers_are_int8():
    kinds = [type(x) for x in jax.tree.leaves(SMALL, is_leaf=lambda x: isinstance(x, Int8))]
    assert kinds.count(Int8) == 7  # q, k, v, o, gate, up, down
    assert not isinstance(SMALL["embed"]["table"], Int8)
    size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree["segment_0"]))
    assert size(SMALL) < 0.35 * size(PARAMS)


@pytest.mark.parametrize(("kind", "bits", "error"), KINDS)
def test_kinds(kind, bits, error):
    """They compute what their dense weights do, which are near the given ones, and take so many bits."""
    small = jax.jit(lambda params: quantize(MODEL, params, kind, double=kind == "nf4"))(PARAMS)
    if kind == "nf4":
        out = lambda params: forward(MODEL.build(), params, TOKENS).hidden_BTD
        np.testing.assert_allclose(out(small), out(dense(small)), atol=1e-5)
    mixer, plain = (tree["segment_0"]["periods"]["block_0"]["ffn"] for tree in (small, PARAMS))
    for name in ("up", "down"):
        w = plain[name]
        assert np.abs(mixer[name].dense() - w).mean() < error * np.abs(w).mean()
        assert sum(x.nbytes for x in jax.tree.leaves(mixer[name])) * 8 / w.size < bits


def test_a_leaf_is_like_its_axes():
    """Of every matrix, so that it can be laid on a mesh."""
    shapes, axes = abstract(MODEL)
    for kind in ("int8", "w8a8", "int4", "nf4", "bitnet"):
        for w, a in zip(jax.tree.leaves(shapes), jax.tree.leaves(axes, is_leaf=is_axes)):
            if not a.inputs:
                continue
            made = jax.eval_shape(lambda w, a=a, kind=kind: stored(w, a, "w", kind, double=kind == "nf4"), w)
            said = axes_of(a, kind, kind == "nf4")
            assert jax.tree.structure(made) == jax.tree.structure(said, is_leaf=is_axes)
            pairs = zip(jax.tree.leaves(made), jax.tree.leaves(said, is_leaf=is_axes))
            assert all(len(x.shape) == len(y.names) for x, y in pairs)


def test_it_computes_what_its_dense_weights_do():
    out = lambda params: forward(MODEL.build(), params, TOKENS).hidden_BTD
    np.testing.assert_allclose(out(SMALL), out(dense(SMALL)), atol=1e-5)
    error = np.abs(out(SMALL) - out(PARAMS)).max() / np.abs(out(PARAMS)).max()
    assert 1e-5 < error < 0.05


def test_it_generates_and_stays_int8():
    config, params = prepare(MODEL, SMALL)
    found, _ = generate(config, params, TOKENS, max_new_tokens=8)
    expected, _ = generate(*prepare(MODEL, dense(SMALL)), TOKENS, max_new_tokens=8)
    np.testing.assert_array_equal(found, expected)
    layer = params["segment_0"]["1"]["block_0"]["mixer"]["q"]
    assert isinstance(layer, Int8) and layer.q.dtype == jnp.int8


def test_what_cannot_be():
    with pytest.raises(UserError, match="unknown kind of quantisation 'int7'"):
        quantize(MODEL, PARAMS, "int7")
    with pytest.raises(UserError, match=r"ffn\.down has 64 inputs: groups of 24 do not divide"):
        quantize(MODEL, PARAMS, "int4", group=24)
    with pytest.raises(UserError, match=r"ffn\.down is stored as Int8 already"):
        quantize(MODEL, SMALL, "int4")
