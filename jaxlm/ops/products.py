"""Products of activations with weights in int8."""

from typing import Any

import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array


def int8(equation: str, x: Array, q: Array, scale: Array, out: Any = None) -> Array:
    """x w of w = q scale, x rounded to int8 token by token, float32:

        t = max |x| / 127,   y = t scale (round(x / t) q)

    `equation` is one of `sharding.einsum`; q is int8, scale is 1 on the inputs. The sums are exact, in int32.
    """
    n = _summed(equation)
    over = tuple(range(x.ndim - n, x.ndim))
    x = x.astype(jnp.float32)
    t = jnp.max(jnp.abs(x), over, keepdims=True) / 127
    rounded = jnp.round(x / jnp.where(t == 0, 1, t)).astype(jnp.int8)
    y = sharding.einsum(equation, rounded, q, out=out, dtype=jnp.int32).astype(jnp.float32)
    outs = _others(equation, scale)
    t = t.reshape(*t.shape[: x.ndim - n], *(1,) * outs.ndim)
    return y * t * outs.reshape(*(1,) * (x.ndim - n), *outs.shape)


def factor_of(equation: str, x: Array, factor: Array) -> Array:
    """A weight's factors of its inputs, laid out as those of x."""
    n = _summed(equation)
    return factor.reshape(*(1,) * (x.ndim - n), *x.shape[-n:])


def _summed(equation: str) -> int:
    """Over how many dimensions a product sums."""
    x_names, w_names = equation.partition("->")[0].split(",")
    return sum(name in w_names for name in x_names)


def _others(equation: str, scale: Array) -> Array:
    """A scale without the dimensions of inputs, which are 1."""
    x_names, w_names = equation.partition("->")[0].split(",")
    return jnp.squeeze(scale, tuple(i for i, name in enumerate(w_names) if name in x_names))
