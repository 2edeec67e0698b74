"""Quantisation-aware training: weights and activations are rounded in the forward pass; gradients pass through."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxlm.axes import Array, Params
from jaxlm.config_check import check as check_ranges
from jaxlm.errors import UserError
from jaxlm.ops import products
from jaxlm.ops.leaves import Leaf
from jaxlm.ops.multiplier import Multiplier
from jaxlm.ops.straight_through import lsq, straight_through
from jaxlm.sharding import Axes, einsum
from jaxlm.trains import Trains, is_axes, spell
from jaxlm.tune.quantize import EIGHT, GROUPS, check, group_of, is_matrix, stored

LIMITS = {"int8": 127, "w8a8": 127, "int4": 7}


@struct.dataclass
class Fake(Leaf):
    """A trained weight that is rounded where it is read to what the leaf of `kind` holds, w + stop_gradient(Q(w) - w).

    With a trained `step`, 1 on the inputs, its levels are steps (`ops.straight_through.lsq`). Of kinds that round
    activations, "w8a8" and "bitnet", what it multiplies is rounded too, and gradients pass through that as well.
    """

    w: Array
    step: Any
    kind: str = struct.field(pytree_node=False)
    axes: Axes = struct.field(pytree_node=False)  # without layers
    group: int | None = struct.field(pytree_node=False)

    def dense(self) -> Array:
        if self.step is not None:
            return lsq(self.w, jnp.abs(self.step), LIMITS[self.kind])
        return straight_through(self.real().dense(), self.w)

    def real(self) -> Leaf:
        """The leaf that it stands for."""
        more = self.w.ndim - len(self.axes.names)  # of layers, which a scan takes off
        axes = Axes(("layers",) * more + self.axes.names, tuple(i + more for i in self.axes.inputs))
        scale = None if self.step is None else jnp.abs(self.step)
        if scale is not None and self.kind not in EIGHT:
            size = group_of(self.w.shape[axes.inputs[-1]], "", self.kind, self.group)
            shape = [n // size if i == axes.inputs[-1] else n for i, n in enumerate(self.w.shape)]
            last = range(-len(axes.inputs), 0)
            scale = jnp.moveaxis(jnp.broadcast_to(scale, shape), axes.inputs, last)
        return stored(self.w, axes, "", self.kind, self.group, scale=scale)

    def read(self, module: Any = None) -> Any:
        return Multiplier(self) if self.kind in ("w8a8", "bitnet") else self.dense()

    def product(self, equation: str, x: Array, out: Any, dtype: Any) -> Array:
        x = straight_through(products.rounded(equation, x), x)
        return einsum(equation, x, self.dense().astype(x.dtype), out=out, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class QAT(Trains):
    """Trains every parameter, with the matrices inside layers as a `kind` of `tune.quantize` will have them (Jacob et
    al. 2018, arXiv:1712.05877); "bitnet" is BitNet b1.58 (Ma et al. 2024, arXiv:2402.17764). With `learned` the step
    of each output is trained (LSQ), of "int8", "w8a8" and "int4"; it begins at 2 mean |w| / sqrt(levels).

    A run trained so is scored as its real leaves are; `m.quantize(kind)` makes them, and changes nothing.
    """

    kind: str = "int4"
    group: int | None = None
    learned: bool = False

    def __post_init__(self):
        check_ranges(self, group=">= 1")
        check(self.kind)
        if self.learned and self.kind not in LIMITS:
            raise UserError(f"steps are learned of {', '.join(LIMITS)}, not of {self.kind}: leave learned out")
        if self.group is not None and self.kind not in GROUPS:
            raise UserError(f"group={self.group} is of {', '.join(GROUPS)}: {self.kind} has a scale for each output")

    def dress(self, params: Params, axes: Params, key: Array) -> Params:
        def one(path: Any, a: Axes, w: Array) -> Any:
            if not is_matrix(a):
                return w
            if self.kind in GROUPS:
                group_of(w.shape[a.inputs[-1]], spell(path), self.kind, self.group)
            step = None
            if self.learned:
                step = 2 * jnp.mean(jnp.abs(w), a.inputs, keepdims=True) / LIMITS[self.kind] ** 0.5
            return self._leaf(a, w, step)

        return jax.tree_util.tree_map_with_path(one, axes, params, is_leaf=is_axes)

    def dress_axes(self, axes: Params) -> Params:
        def one(a: Axes) -> Any:
            step = Axes(tuple(None if i in a.inputs else name for i, name in enumerate(a.names)))
            return self._leaf(a, a, step if self.learned else None) if is_matrix(a) else a

        return jax.tree.map(one, axes, is_leaf=is_axes)

    def chooses(self, path: str) -> bool:
        return True

    def _leaf(self, axes: Axes, w: Any, step: Any) -> Fake:
        more = axes.names[0] == "layers"
        own = Axes(axes.names[more:], tuple(i - more for i in axes.inputs))
        return Fake(w, step, self.kind, own, self.group)
