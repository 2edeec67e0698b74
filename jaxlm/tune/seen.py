"""What calibration keeps of the activations that a matrix multiplies."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxlm.axes import Array
from jaxlm.sharding import Axes

SAMPLE = 512  # tokens that are kept themselves


@struct.dataclass
class Seen:
    """Sums over all tokens, and some of the tokens. I are the inputs as one dimension."""

    hessian_II: Array  # X^T X
    size_I: Array  # sum |x|
    largest_I: Array  # max |x|
    tokens: Array
    x_NI: Array

    @classmethod
    def of(cls, x_NI: Array, mask_N: Array | None = None) -> "Seen":
        """`mask_N` is 0 on padding."""
        x_NI = x_NI.astype(jnp.float32)
        x_NI = x_NI if mask_N is None else x_NI * mask_N[:, None]
        N = jnp.asarray(len(x_NI), jnp.float32) if mask_N is None else jnp.sum(mask_N)
        size = jnp.abs(x_NI)
        return cls(x_NI.T @ x_NI, jnp.sum(size, 0), jnp.max(size, 0), N, x_NI[:: -(-len(x_NI) // SAMPLE)])

    def __add__(self, other: "Seen") -> "Seen":
        most = jnp.maximum(self.largest_I, other.largest_I)
        sums = jax.tree.map(jnp.add, dataclasses.replace(self, x_NI=0), dataclasses.replace(other, x_NI=0))
        return dataclasses.replace(sums, largest_I=most, x_NI=self.x_NI)

    @property
    def mean_I(self) -> Array:
        return self.size_I / self.tokens


@struct.dataclass
class Matrix:
    """A weight of one layer, dense float32; `axes` are its own."""

    w: Array
    name: str = struct.field(pytree_node=False)
    axes: Axes = struct.field(pytree_node=False)

    @property
    def w_IO(self) -> Array:
        """Inputs and outputs as one dimension each."""
        return flat(self.w, self.axes.inputs)

    def like(self, w_IO: Array) -> Array:
        """The inverse of `w_IO`."""
        return unflat(w_IO, self.w.shape, self.axes.inputs)

    def over_inputs(self, x_I: Array) -> Array:
        """Numbers of inputs, 1 on the outputs."""
        return x_I.reshape([n if i in self.axes.inputs else 1 for i, n in enumerate(self.w.shape)])


def flat(w: Any, inputs: tuple[int, ...]) -> Array:
    moved = jnp.moveaxis(w, inputs, range(len(inputs)))
    return moved.reshape(math.prod(moved.shape[: len(inputs)]), -1)


def unflat(w_IO: Array, shape: tuple[int, ...], inputs: tuple[int, ...]) -> Array:
    others = [i for i in range(len(shape)) if i not in inputs]
    moved = w_IO.reshape([shape[i] for i in (*inputs, *others)])
    return jnp.moveaxis(moved, range(len(inputs)), inputs)
