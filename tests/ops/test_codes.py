"""Codes of a few bits against what bitsandbytes made of the same weights, and against rounding written slowly."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import codes

W = np.random.default_rng(0).normal(size=(288, 64)).astype(np.float32) * np.float32(0.05)
W[3], W[5, 7] = 0, 2
LEVELS = {"int4": np.arange(-8, 8), "nf4": codes.NF4, "ternary": np.arange(-1, 2)}


@pytest.fixture(scope="module")
def theirs():
    """bitsandbytes 0.50.2, quantize_4bit(W, blocksize=64, quant_type="nf4"), with and without compress_statistics."""
    with np.load(Path(__file__).parent / "nf4.npz") as arrays:
        return dict(arrays)


def test_nf4_is_bitsandbytes(theirs):
    packed, scale = codes.quantize(jnp.asarray(W), "nf4", 64)
    np.testing.assert_array_equal(packed, theirs["codes"])
    np.testing.assert_array_equal(scale[:, 0], theirs["absmax"])
    np.testing.assert_array_equal((codes.unpack(packed, "nf4") * scale)[:8], theirs["dense"])


def test_double_quantisation_is_bitsandbytes(theirs):
    """Of three of 288 scales, which lie between two levels, the code is the neighbour."""
    code, largest, mean = codes.quantize_scales(jnp.asarray(theirs["absmax"])[None])
    np.testing.assert_array_equal(largest[0], theirs["largest"])
    np.testing.assert_array_equal(mean[0], theirs["offset"])
    np.testing.assert_allclose(codes.dynamic_levels(), theirs["levels"], atol=1e-7)
    apart = np.abs(code[0].astype(int) - theirs["code8"].astype(int))
    assert apart.max() <= 1 and apart.sum() <= 3
    again = codes.scales(jnp.asarray(theirs["code8"])[None], largest, mean)
    w = codes.unpack(jnp.asarray(theirs["codes"]), "nf4") * again[0][:, None]
    np.testing.assert_array_equal(w[:8], theirs["dense_double"])


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("group", [16, 64])
def test_nearest_level(kind, group):
    packed, scale = codes.quantize(jnp.asarray(W), kind, group)
    bits = codes.BITS[kind]
    assert packed.shape == (288, 64 * bits // 8) and packed.dtype == jnp.uint8 and scale.shape == (288, 64 // group)
    grouped = W.reshape(288, -1, group)
    size = np.abs(grouped)
    wanted = {"int4": size.max(-1) / 7, "nf4": size.max(-1), "ternary": size.mean(-1)}[kind]
    np.testing.assert_allclose(scale, wanted, rtol=1e-6)
    found = np.asarray(codes.unpack(packed, kind)).reshape(grouped.shape) * np.asarray(scale)[..., None]
    apart = np.abs(grouped[..., None] - LEVELS[kind] * np.asarray(scale)[..., None, None]).min(-1)
    np.testing.assert_allclose(np.abs(found - grouped), apart, atol=1e-6)


def test_the_first_code_is_in_the_highest_bits():
    assert codes.pack(jnp.array([1, 2, 3, 4], jnp.uint8), 4).tolist() == [0x12, 0x34]
    assert codes.pack(jnp.array([0, 1, 2, 3], jnp.uint8), 2).tolist() == [0b00011011]
