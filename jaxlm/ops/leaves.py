"""Stored parameters that are not plain arrays: the dense weight is made where it is read, one layer at a time.

A leaf is a dataclass of arrays, so gradients, optimizers, shardings and checkpoints see those, while a module that asks
`sharding.weight` gets the dense array and knows of nothing. Leading axes of layers and experts are cut off all arrays
of a leaf together.
"""

import abc
import string
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxlm.axes import Array
from jaxlm.ops import blocks


class Leaf(abc.ABC):
    """A weight stored in another form."""

    @abc.abstractmethod
    def dense(self) -> Array:
        """The weight, of its full shape."""


@struct.dataclass
class LowRank(Leaf):
    """v = w + scale a b, of which only a and b are trained (Hu et al. 2021, arXiv:2106.09685).

    `inputs` and `outputs` are the dimensions of w, counted from its end, that are contracted with activations and that
    come of them: a is (..., *inputs, r) and b (..., r, *outputs). With a `magnitude` m for each output, 1 on the
    inputs, it is m v / |v|, the norm over the inputs and held fixed for gradients (DoRA, Liu et al. 2024,
    arXiv:2402.09353).
    """

    w: Any
    a: Array
    b: Array
    scale: float = struct.field(pytree_node=False)
    inputs: tuple[int, ...] = struct.field(pytree_node=False)
    outputs: tuple[int, ...] = struct.field(pytree_node=False)
    magnitude: Any = None

    def dense(self) -> Array:
        w = self.w.dense() if isinstance(self.w, Leaf) else self.w
        names = string.ascii_lowercase[: w.ndim]
        ins, outs = (tuple(names[i] for i in dims) for dims in (self.inputs, self.outputs))
        lead = "".join(name for name in names if name not in ins + outs)
        equation = f"{lead}{''.join(ins)}z,{lead}z{''.join(outs)}->{names}"
        v = w + self.scale * jnp.einsum(equation, self.a, self.b)
        if self.magnitude is None:
            return v
        norm = jnp.sqrt(jnp.sum(jnp.square(v.astype(jnp.float32)), self.inputs, keepdims=True))
        return v * (self.magnitude / jax.lax.stop_gradient(norm))


@struct.dataclass
class Scaled(Leaf):
    """w times a vector over some of its dimensions, the only thing trained (IA3, Liu et al. 2022, arXiv:2205.05638)."""

    w: Any
    factor: Array  # 1 on the other dimensions

    def dense(self) -> Array:
        return (self.w.dense() if isinstance(self.w, Leaf) else self.w) * self.factor


@struct.dataclass
class Int8(Leaf):
    """q s, an 8-bit integer for each number and a scale for each output: s = max |w| / 127 over the inputs (Dettmers
    et al. 2022, arXiv:2208.07339, without outliers)."""

    q: Array  # int8, of the weight's shape
    scale: Array  # 1 on the dimensions of inputs

    def dense(self) -> Array:
        return self.q.astype(self.scale.dtype) * self.scale

    @classmethod
    def of(cls, w: Array, inputs: tuple[int, ...]) -> "Int8":
        largest = jnp.max(jnp.abs(w.astype(jnp.float32)), inputs, keepdims=True)
        scale = jnp.where(largest == 0, 1.0, largest / 127)
        return cls(jnp.round(w / scale).astype(jnp.int8), scale)


@struct.dataclass
class Blocks(Leaf):
    """Rows of GGUF blocks as their file has them, see `ops.blocks`: the inputs of each output are a row.

    `raw` is (..., *outputs, bytes of a row) with the layers in front. Layers may be of several `kinds`: `which` (...,)
    says each one's, and rows of fewer bytes are padded. `inputs` are the sizes and `where` the dimensions, from the
    weight's end, of what is contracted.
    """

    raw: Array
    which: Array
    kinds: tuple[tuple[str, int], ...] = struct.field(pytree_node=False)  # the name, bytes of a row
    inputs: tuple[int, ...] = struct.field(pytree_node=False)
    where: tuple[int, ...] = struct.field(pytree_node=False)

    def dense(self) -> Array:
        return (
            self._dense(self.raw, self.which) if self.which.ndim == 0 else jax.vmap(self._dense)(self.raw, self.which)
        )

    def _dense(self, raw: Array, which: Array) -> Array:
        each = [lambda raw, kind=kind, n=n: blocks.dequantize(raw[..., :n], kind) for kind, n in self.kinds]
        rows = each[0](raw) if len(each) == 1 else jax.lax.switch(which, each, raw)
        w = rows.reshape(*rows.shape[:-1], *self.inputs)
        return jnp.moveaxis(w, tuple(range(-len(self.inputs), 0)), self.where)


def is_leaf(x: Any) -> bool:
    return isinstance(x, Leaf)


def dense(tree: Any) -> Any:
    """A tree of parameters with every leaf as the dense array."""
    return jax.tree.map(lambda x: x.dense() if is_leaf(x) else x, tree, is_leaf=is_leaf)
