"""Normalisation over the last axis, computed in float32 whatever the input's dtype."""

import jax.numpy as jnp
from jax import lax

from jaxlm.axes import Array


def _last(scale_D: Array, ndim: int) -> Array:
    return scale_D.reshape((1,) * (ndim - 1) + scale_D.shape)


def rms_norm(x: Array, scale_D: Array, eps: float = 1e-6) -> Array:
    """Root mean square norm, y = x / sqrt(mean(x^2) + eps) * scale (Zhang & Sennrich 2019, arXiv:1910.07467)."""
    x32 = x.astype(jnp.float32)
    y = x32 * lax.rsqrt(jnp.mean(jnp.square(x32), -1, keepdims=True) + eps)
    return (y * _last(scale_D, x.ndim)).astype(x.dtype)


def layer_norm(x: Array, scale_D: Array, bias_D: Array | None = None, eps: float = 1e-5) -> Array:
    """Layer norm, y = (x - mean) / sqrt(var + eps) * scale + bias (Ba et al. 2016, arXiv:1607.06450)."""
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, -1, keepdims=True)
    y = x32 * lax.rsqrt(jnp.mean(jnp.square(x32), -1, keepdims=True) + eps) * _last(scale_D, x.ndim)
    return (y if bias_D is None else y + _last(bias_D, x.ndim)).astype(x.dtype)
