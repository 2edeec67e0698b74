"""Pointwise nonlinearities of feed-forward layers, by the names configs use."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxlm.axes import Array


def relu2(x: Array) -> Array:
    """Squared ReLU (So et al. 2021, arXiv:2109.08668)."""
    return jnp.square(jax.nn.relu(x))


def swish(x: Array, beta: float) -> Array:
    """x sigmoid(beta x) (Ramachandran et al. 2017, arXiv:1710.05941); silu is swish of 1."""
    return x * jax.nn.sigmoid(beta * x)


def quick_gelu(x: Array) -> Array:
    """Swish of 1.702, which is close to gelu (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    return swish(x, 1.702)


def xielu(x: Array, positive: Array, negative: Array, beta: float = 0.5, eps: float = -1e-6) -> Array:
    """The integral of ELU with learned slopes (Huang and Schlag 2024, arXiv:2411.13010): with p = softplus(positive)
    and n = beta + softplus(negative), p x^2 + beta x above zero, and (expm1(min(x, eps)) - x) n + beta x below."""
    p, n = jax.nn.softplus(positive), beta + jax.nn.softplus(negative)
    return jnp.where(x > 0, p * jnp.square(x), (jnp.expm1(jnp.minimum(x, eps)) - x) * n) + beta * x


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "relu2": relu2,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "quick_gelu": quick_gelu,
    "mish": jax.nn.mish,
    "hardswish": jax.nn.hard_swish,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "linear": lambda x: x,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}


def soft_cap(x: Array, cap: float) -> Array:
    """cap tanh(x / cap), which stays below the cap (Gemma 2, arXiv:2408.00118)."""
    return cap * jnp.tanh(x / cap)


def glu(gate: Array, up: Array, act: Callable[[Array], Array], limit: float | None = None) -> Array:
    """act(gate) up (Shazeer 2020, arXiv:2002.05202); with a limit c, act(min(gate, c)) (clip(up, -c, c) + 1), as in
    gpt-oss (arXiv:2508.10925)."""
    return act(gate) * up if limit is None else act(jnp.minimum(gate, limit)) * (jnp.clip(up, -limit, limit) + 1)
