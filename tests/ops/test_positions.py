import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import sinusoidal, temperature

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
    halves = np.concatenate([expected[..., 0::2], expected[..., 1::2]], -1)
    np.testing.assert_allclose(sinusoidal(POSITIONS, D, base, halves=True), halves, atol=2e-5)


@pytest.mark.parametrize("scale, step", [(0.1, 8192.0), (0.5, 3.0)])
def test_temperature(scale, step):
    at = np.array([[0, 1, 2, 3, 8190, 8191, 16383, 100_000]])
    expected = [[1 + scale * math.log(1 + (t + 1) // step) for t in row] for row in at.tolist()]
    found = temperature(at, scale, step)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_texts_shorter_than_a_step_are_as_warm_as_ever():
    assert temperature(np.arange(10)[None], step=11.0).tolist() == [[1.0] * 10]
