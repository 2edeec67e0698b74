"""Blocks of few bits against the gguf library."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlm.errors import UserError
from jaxlm.ops.blocks import KINDS, dequantize, quantize

gguf = pytest.importorskip("gguf", reason="needs the gguf library: pip install gguf")


def theirs(name):
    return gguf.GGMLQuantizationType[name]


@pytest.mark.parametrize("kind", KINDS)
def test_bits_of_random_and_edge_blocks(kind):
    """Scales that are NaN, infinite or subnormal among them."""
    form = KINDS[kind]
    assert (form.weights, form.size) == gguf.GGML_QUANT_SIZES[theirs(kind)] and form.number == theirs(kind).value
    raw = np.random.default_rng(0).integers(0, 256, (64, 3 * form.size), dtype=np.uint8)
    raw[0], raw[1] = 0, 255
    with np.errstate(all="ignore"):
        wanted, found = gguf.quants.dequantize(raw, theirs(kind)), dequantize(raw, kind)
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == np.float32
        np.testing.assert_allclose(dequantize(jnp.asarray(raw), kind), wanted, rtol=0, atol=1e-37)  # subnormals are 0


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0"])
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-6, 4))
def test_rounding_is_theirs(kind, seed, size):
    w = (np.random.default_rng(seed).standard_normal((3, 64)) * 10**size).astype(np.float32)
    w[0] = 0
    np.testing.assert_array_equal(quantize(w, kind), gguf.quants.quantize(w, theirs(kind)))


def test_bad_input():
    with pytest.raises(UserError, match=r"33 bytes are no whole blocks of Q8_0, which have 34"):
        dequantize(np.zeros((2, 33), np.uint8), "Q8_0")
    with pytest.raises(UserError, match="IQ1_S"):
        dequantize(np.zeros((2, 33), np.uint8), "IQ1_S")
    with pytest.raises(UserError, match="rows of 40 weights"):
        quantize(np.zeros((2, 40), np.float32), "Q8_0")
    with pytest.raises(UserError, match=r"a weight of 1e\+08 is beyond"):
        quantize(np.full((2, 32), 1e8), "Q8_0")
    with pytest.raises(UserError, match="Q4_K"):
        quantize(np.zeros((2, 256), np.float32), "Q4_K")
