"""Initial weights: truncated normals scaled so that activations keep their size."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

EMBEDDING = jax.nn.initializers.normal(0.02)


def fan_in(inputs: tuple[int, ...], scale: float = 1.0) -> Callable:
    """Variance scale / (product of the `inputs` dimensions), truncated at two standard deviations."""

    def init(key, shape, dtype):
        whole = shape if len(shape) > 1 else (*shape, 1)  # jax 0.7 takes no vectors
        axes = [i for i in range(len(whole)) if i not in inputs]
        return jax.nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal", in_axis=inputs, out_axis=axes)(
            key, whole, dtype
        ).reshape(shape)

    return init


def residual(inputs: tuple[int, ...], depth: int) -> Callable:
    """`fan_in` for the last projection of a branch: the sum of `2 * depth` branches keeps variance one (GPT-2)."""
    return fan_in(inputs, 1 / (2 * depth))


def step_size(key, shape, dtype, low: float = 1e-3, high: float = 1e-1):
    """Biases whose softplus is a step size between `low` and `high`, uniform in its logarithm (Mamba)."""
    size = jnp.exp(jax.random.uniform(key, shape, dtype, jnp.log(low), jnp.log(high)))
    return size + jnp.log(-jnp.expm1(-size))


def rates(key, shape, dtype):
    """Logarithms of rates between 1 and 16 (Mamba-2)."""
    return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, 16.0))
