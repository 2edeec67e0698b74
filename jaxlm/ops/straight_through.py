"""Gradients of what has none: rounding, passed through as if nothing had been rounded."""

import jax
import jax.numpy as jnp

from jaxlm.axes import Array


def straight_through(rounded: Array, x: Array) -> Array:
    """`rounded` with the gradient of x (Bengio et al. 2013, arXiv:1308.3432):

    x + stop_gradient(rounded - x)
    """
    return x + jax.lax.stop_gradient(rounded - x)


def lsq(w: Array, step: Array, limit: int) -> Array:
    """w as a whole number of steps within -limit - 1, ..., limit, differentiable in both (LSQ, Esser et al. 2020,
    arXiv:1902.08153):

        round(clip(w / s)) s,   d / d s = round(w / s) - w / s inside the range, the limit outside

    and 1 for w inside it, 0 outside. The step's gradient is divided by sqrt(numbers limit), numbers those of a step.
    """
    scale = (w.size / step.size * limit) ** -0.5
    s = step * scale + jax.lax.stop_gradient(step * (1 - scale))
    v = jnp.clip(w / s, -limit - 1, limit)
    return straight_through(jnp.round(v), v) * s
