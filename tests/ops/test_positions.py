import cmath
import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import rotate, sinusoidal

RNG = np.random.default_rng(0)
POSITIONS = np.array([[0, 1, 2, 3, 4], [7, 0, 1, 257, 3]])  # 257 is no bfloat16


@pytest.mark.parametrize("base", [10_000.0, 100.0])
def test_sinusoids(base):
    D = 8
    expected = np.zeros((2, 5, D))
    for b, t in np.ndindex(2, 5):
        for i in range(D // 2):
            angle = POSITIONS[b, t] / base ** (2 * i / D)
            expected[b, t, 2 * i : 2 * i + 2] = math.sin(angle), math.cos(angle)
    e = sinusoidal(POSITIONS, D, base)
    assert e.dtype == jnp.float32
    np.testing.assert_allclose(e, expected, atol=2e-5)


@pytest.mark.parametrize("base", [10_000.0, 100.0])
def test_rotation_turns_pairs_as_complex_numbers(base):
    B, T, H, K = 2, 5, 3, 8
    x = RNG.normal(size=(B, T, H, K)).astype(np.float32)
    expected = np.zeros_like(x)
    for b, t, h, i in np.ndindex(B, T, H, K // 2):
        turned = complex(x[b, t, h, i], x[b, t, h, i + K // 2]) * cmath.exp(1j * POSITIONS[b, t] / base ** (2 * i / K))
        expected[b, t, h, i], expected[b, t, h, i + K // 2] = turned.real, turned.imag
    np.testing.assert_allclose(rotate(x, POSITIONS, base), expected, atol=5e-5)


def test_scores_depend_on_the_distance_only():
    q, k = RNG.normal(size=(2, 1, 6, 2, 8)).astype(np.float32)

    def scores(first):
        at = first + np.arange(6)[None]
        return jnp.einsum("bthk,bshk->bhts", rotate(q, at), rotate(k, at))

    np.testing.assert_allclose(scores(0), scores(50), atol=1e-4)
    assert np.abs(scores(0) - jnp.einsum("bthk,bshk->bhts", q, k)).max() > 0.1


def test_rotation_keeps_lengths_and_leaves_position_0_alone():
    x = RNG.normal(size=(2, 5, 3, 8)).astype(np.float32)
    y = rotate(x, POSITIONS)
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(y[0, 0], x[0, 0])


def test_one_row_of_positions_serves_all_rows():
    x = RNG.normal(size=(2, 5, 3, 8)).astype(np.float32)
    each = rotate(x, np.repeat(POSITIONS[1:], 2, 0))
    np.testing.assert_array_equal(rotate(x, POSITIONS[1:]), each)


def test_half_precision_is_rounded_once():
    x = jnp.asarray(RNG.normal(size=(2, 5, 3, 8)), jnp.bfloat16)
    y = rotate(x, POSITIONS)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(y), rotate(x.astype(jnp.float32), POSITIONS), rtol=2**-7, atol=1e-3)
