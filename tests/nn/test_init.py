import jax
import numpy as np
import pytest

from jaxlm.nn import init

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "make, shape, variance",
    [
        (init.fan_in((0,)), (64, 128), 1 / 64),
        (init.fan_in((1,)), (128, 64), 1 / 64),
        (init.fan_in((0,)), (64, 4, 32), 1 / 64),
        (init.fan_in((0, 1)), (4, 16, 128), 1 / 64),
        (init.fan_in((0,), 0.25), (64, 128), 0.25 / 64),
        (init.residual((0, 1), 6), (4, 16, 128), 1 / 64 / 12),
    ],
)
def test_variance_and_truncation(make, shape, variance):
    w = np.asarray(jax.jit(lambda key: make(key, shape, "float32"))(KEY))
    assert w.shape == shape
    np.testing.assert_allclose(w.var(), variance, rtol=0.06)
    assert abs(w.mean()) < 5 * np.sqrt(variance / w.size)
    # Of a normal truncated at two deviations, 0.88 of the deviation is left, which the scale makes up for.
    assert 0.95 * 2 / 0.88 < np.abs(w).max() / np.sqrt(variance) < 1.001 * 2 / 0.8796
