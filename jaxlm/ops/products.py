"""Products of activations with weights in int8."""

import math
from typing import Any

import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array


def int8(equation: str, x: Array, q: Array, scale: Array, out: Any = None) -> Array:
    """x w of w = q scale, x rounded to int8 token by token, float32:

        t = max |x| / 127,   y = t scale (round(x / t) q)

    `equation` is one of `sharding.einsum`; q is int8 with its inputs last, scale has w's shape, 1 on the inputs. The
    sums are exact, in int32. A single token gets a row of zeros beside it on CPUs: XLA there has a fast product of
    integers for two rows, and for one a loop that takes 28 times as long.
    """
    n = _summed(equation)
    rounded, t = tokens(equation, x)
    x_names, w_names = equation.partition("->")[0].split(",")
    others = "".join(name for name in w_names if name not in x_names)
    laid = f"{x_names},{others}{x_names[-n:]}->{equation.partition('->')[2]}"
    alone = rounded.size == math.prod(rounded.shape[-n:]) and sharding.platform() == "cpu"
    rounded = jnp.concatenate([rounded, jnp.zeros_like(rounded)]) if alone else rounded
    y = sharding.einsum(laid, rounded, q, out=out, dtype=jnp.int32).astype(jnp.float32)
    y = y[:1] if alone else y
    outs = _others(equation, scale)
    t = t.reshape(*t.shape[: x.ndim - n], *(1,) * outs.ndim)
    return y * t * outs.reshape(*(1,) * (x.ndim - n), *outs.shape)


def tokens(equation: str, x: Array) -> tuple[Array, Array]:
    """Activations as int8 and the scale of each token, whose dimensions of inputs are 1."""
    x = x.astype(jnp.float32)
    t = jnp.max(jnp.abs(x), tuple(range(x.ndim - _summed(equation), x.ndim)), keepdims=True) / 127
    return jnp.round(x / jnp.where(t == 0, 1, t)).astype(jnp.int8), t


def rounded(equation: str, x: Array) -> Array:
    """Activations as int8 has them, in their own dtype."""
    q, t = tokens(equation, x)
    return (q * t).astype(x.dtype)


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
