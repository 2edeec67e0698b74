"""Dropout as a function of an explicit key (Srivastava et al. 2014)."""

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array


def dropout(x: Array, rate: float, key: Array, *names: str | None) -> Array:
    """Zero a fraction `rate` of x and scale the rest by 1 / (1 - rate). `names`: x's logical axes.

    The mask does not depend on the mesh: a run draws the same one on any number of devices.
    """
    kept = jax.random.uniform(key, x.shape, out_sharding=sharding.creation(*names)) >= rate
    return jnp.where(kept, x / (1 - rate), jnp.zeros((), x.dtype)).astype(x.dtype)
