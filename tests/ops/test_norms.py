import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import layer_norm, rms_norm

RNG = np.random.default_rng(0)
X = RNG.normal(1.0, 3.0, (2, 5, 16)).astype(np.float32)
SCALE, BIAS = RNG.normal(1.0, 0.3, (2, 16)).astype(np.float32)


def naive_rms(x, scale, eps):
    x = np.asarray(x, np.float64)
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + eps) * scale


def naive_layer(x, scale, bias, eps):
    x = np.asarray(x, np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * scale + bias


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_they_are_the_formulas(eps):
    np.testing.assert_allclose(rms_norm(X, SCALE, eps), naive_rms(X, SCALE, eps), atol=1e-5)
    np.testing.assert_allclose(layer_norm(X, SCALE, BIAS, eps), naive_layer(X, SCALE, BIAS, eps), atol=1e-5)
    np.testing.assert_allclose(layer_norm(X, SCALE, None, eps), naive_layer(X, SCALE, 0, eps), atol=1e-5)


def test_any_rank():
    np.testing.assert_allclose(rms_norm(X[0, 0], SCALE), rms_norm(X, SCALE)[0, 0], rtol=1e-6)
    np.testing.assert_allclose(layer_norm(X[0], SCALE, BIAS), layer_norm(X, SCALE, BIAS)[0], rtol=1e-6)


def test_half_precision_is_rounded_once():
    """Squares of 300 and a sum of 4096 terms are beyond float16, and bfloat16 has three digits."""
    x = RNG.normal(0, 300, (4, 4096))
    for dtype, ulp in ((jnp.float16, 2**-10), (jnp.bfloat16, 2**-7)):
        half, one = jnp.asarray(x, dtype), jnp.ones(4096)
        for y, expected in (
            (rms_norm(half, one), naive_rms(half, 1, 1e-6)),
            (layer_norm(half, one), naive_layer(half, 1, 0, 1e-5)),
        ):
            assert y.dtype == dtype
            np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=ulp, atol=1e-6)


def test_layer_norm_of_a_large_mean_keeps_its_digits():
    """var = mean(x^2) - mean(x)^2 would lose them all."""
    x = RNG.normal(0, 1, (3, 64)).astype(np.float32) + 4096
    expected = naive_layer(x, 1, 0, 1e-5)
    np.testing.assert_allclose(layer_norm(x, np.ones(64, np.float32)), expected, atol=1e-3)


def test_gradients_at_zero_are_finite():
    zero, one = jnp.zeros((1, 8)), jnp.ones(8)
    for f in (rms_norm, layer_norm):
        assert np.isfinite(jax.grad(lambda x, f=f: f(x, one).sum())(zero)).all()
