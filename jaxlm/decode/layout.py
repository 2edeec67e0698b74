"""Parameters as they decode fastest."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Params
from jaxlm.models.lm import folded
from jaxlm.nn.stack import unstack


def prepare(config: Any, params: Params) -> tuple[Any, Params]:
    """Config and parameters as they decode fastest: one tree a layer, weights in the dtype that matmuls read.

    A prompt of virtual tokens becomes the prefix that the layers make of it. On CPU the dtype is float32: products with
    a bfloat16 matrix read it at a thirtieth of the speed.
    """
    if getattr(config, "virtual", None) is not None:
        config, params = folded(config, params)
    dtype = jnp.dtype("float32" if sharding.platform() == "cpu" else config.dtype)
    return dataclasses.replace(config, dtype=dtype.name), _layers(params, dtype)


@functools.partial(jax.jit, static_argnums=1)
def _layers(params: Params, dtype: Any) -> Params:
    # A norm computes with its scale in float32, and a stored leaf may have integers.
    cast = lambda x: x.astype(dtype) if x.ndim > 1 and jnp.issubdtype(x.dtype, jnp.floating) else x
    return jax.tree.map(cast, unstack(params))
