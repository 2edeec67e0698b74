"""A weight that makes its products with activations itself."""

from typing import Any

import jax.numpy as jnp

from jaxlm.axes import Array


class Multiplier:
    """What `sharding.einsum` asks for a product with activations; wherever else it is read it is the dense weight."""

    def __init__(self, leaf: Any, dtype: Any = jnp.float32):
        self._leaf, self._dtype = leaf, dtype

    def astype(self, dtype: Any) -> "Multiplier":
        return Multiplier(self._leaf, dtype)

    def product(self, equation: str, x: Array, out: Any = None, dtype: Any = None) -> Array:
        return self._leaf.product(equation, x, out, dtype or x.dtype)

    def __jax_array__(self) -> Array:
        return self._leaf.dense().astype(self._dtype)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__jax_array__(), name)

    def __getitem__(self, at: Any) -> Array:
        return self.__jax_array__()[at]
