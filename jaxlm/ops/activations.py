"""Pointwise nonlinearities of feed-forward layers, by the names configs use."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxlm.axes import Array


def relu2(x: Array) -> Array:
    """Squared ReLU (So et al. 2021, arXiv:2109.08668)."""
    return jnp.square(jax.nn.relu(x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "relu2": relu2,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
}
