import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import grouped_rms_norm, layer_norm, rms_norm

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


def test_over_several_axes():
    """Entry by entry of two axes at once, each with a weight of its own."""
    x, scale, bias = RNG.normal(1, 2, (2, 3, 4, 5)), RNG.normal(size=(4, 5)), RNG.normal(size=(4, 5))
    rms, layer = np.zeros_like(x), np.zeros_like(x)
    for b, t in np.ndindex(2, 3):
        flat = x[b, t].ravel()
        rms[b, t] = x[b, t] / np.sqrt((flat**2).sum() / 20 + 0.1) * scale
        layer[b, t] = (x[b, t] - flat.sum() / 20) / np.sqrt(flat.var() + 0.1) * scale + bias
    x, scale, bias = (np.float32(a) for a in (x, scale, bias))
    np.testing.assert_allclose(rms_norm(x, scale, 0.1, axes=2), rms, atol=1e-5)
    np.testing.assert_allclose(layer_norm(x, scale, bias, 0.1, axes=2), layer, atol=1e-5)


def test_weights_of_their_own_for_every_head():
    """The norm is of the last axis, the weights of the last two."""
    x, scale, bias = (RNG.normal(size=shape).astype(np.float32) for shape in ((2, 3, 4, 5), (4, 5), (4, 5)))
    for h in range(4):
        np.testing.assert_allclose(rms_norm(x, scale)[:, :, h], rms_norm(x[:, :, h], scale[h]), rtol=1e-5)
        expected = layer_norm(x[:, :, h], scale[h], bias[h])
        np.testing.assert_allclose(layer_norm(x, scale, bias)[:, :, h], expected, rtol=1e-5, atol=1e-6)


def test_without_weights():
    np.testing.assert_allclose(rms_norm(X), naive_rms(X, 1, 1e-6), atol=1e-5)
    np.testing.assert_allclose(layer_norm(X), naive_layer(X, 1, 0, 1e-5), atol=1e-5)


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


def test_groups_of_heads_are_normed_together():
    x, scale = np.random.default_rng(0).normal(size=(2, 3, 4, 5)), np.random.default_rng(1).normal(size=(4, 5))
    wanted = x.reshape(2, 3, 2, 10)
    wanted = wanted / np.sqrt(np.mean(wanted**2, -1, keepdims=True) + 0.1)
    found = grouped_rms_norm(x.astype(np.float32), scale.astype(np.float32), 2, 0.1)
    np.testing.assert_allclose(found, wanted.reshape(x.shape) * scale, atol=1e-5)
