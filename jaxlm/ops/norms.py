"""RMSNorm and LayerNorm: normalisation over the last axis, or the last `axes`, computed in float32 whatever the input's
dtype."""

import jax.numpy as jnp
from jax import lax

from jaxlm import sharding
from jaxlm.axes import Array


def rms_norm(x: Array, scale_D: Array | None = None, eps: float = 1e-6, axes: int = 1) -> Array:
    """Root mean square norm, y = x / sqrt(mean(x^2) + eps) * scale (Zhang & Sennrich 2019, arXiv:1910.07467)."""
    x32 = x.astype(jnp.float32)
    return _scaled(x32, scale_D, None, eps, axes).astype(x.dtype)


def layer_norm(
    x: Array, scale_D: Array | None = None, bias_D: Array | None = None, eps: float = 1e-5, axes: int = 1
) -> Array:
    """Layer norm, y = (x - mean) / sqrt(var + eps) * scale + bias (Ba et al. 2016, arXiv:1607.06450)."""
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, _last(axes), keepdims=True)
    return _scaled(x32, scale_D, bias_D, eps, axes).astype(x.dtype)


def _last(axes: int) -> tuple[int, ...]:
    return tuple(range(-axes, 0))


def _scaled(x32: Array, scale_D: Array | None, bias_D: Array | None, eps: float, axes: int) -> Array:
    y = x32 * lax.rsqrt(jnp.mean(jnp.square(x32), _last(axes), keepdims=True) + eps)
    y = y if scale_D is None else y * _like(scale_D, y)
    return y if bias_D is None else y + _like(bias_D, y)


def _like(weight: Array, x: Array) -> Array:
    """A weight of the last dimensions, with as many dimensions as x, in float32."""
    return weight.astype(jnp.float32).reshape((1,) * (x.ndim - weight.ndim) + weight.shape)


def grouped_rms_norm(x_BTHK: Array, scale_HK: Array, G: int, eps: float = 1e-6) -> Array:
    """`rms_norm` over the H / G heads of a group and their width at once; of heads that are divided over devices only
    the mean squares are exchanged."""
    x32, H = x_BTHK.astype(jnp.float32), x_BTHK.shape[2]
    square_BTH = sharding.replicated(jnp.mean(jnp.square(x32), -1), 2)
    square_BTG = jnp.mean(square_BTH.reshape(*square_BTH.shape[:2], G, H // G), -1)
    square_BTH = sharding.constrain(jnp.repeat(square_BTG, H // G, 2), "batch", None, "heads")
    return (x32 * lax.rsqrt(square_BTH + eps)[..., None] * _like(scale_HK, x32)).astype(x_BTHK.dtype)
