"""Quantised parameters serve as parameters do: scored, decoded, on every mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.decode import generate, prepare
from jaxlm.errors import UserError
from jaxlm.models import forward
from jaxlm.ops.leaves import Int8, dense
from jaxlm.tune import quantize
from tests import tiny
from tests.weights import weights

MODEL = tiny.model()
TOKENS = np.arange(12).reshape(2, 6)
PARAMS = weights(MODEL.build(), TOKENS)
SMALL = jax.jit(lambda params: quantize(MODEL, params))(PARAMS)


def test_matrices_inside_layers_are_int8():
    kinds = [type(x) for x in jax.tree.leaves(SMALL, is_leaf=lambda x: isinstance(x, Int8))]
    assert kinds.count(Int8) == 7  # q, k, v, o, gate, up, down
    assert not isinstance(SMALL["embed"]["table"], Int8)
    size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree["segment_0"]))
    assert size(SMALL) < 0.35 * size(PARAMS)


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
