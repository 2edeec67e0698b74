"""IA3: a frozen model whose activations are rescaled by trained vectors."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.axes import Array, Params
from jaxlm.ops.leaves import Scaled
from jaxlm.sharding import Axes
from jaxlm.trains import Trains, is_axes, pattern, spell


@dataclasses.dataclass(frozen=True)
class IA3(Trains):
    """Trains a vector l over the outputs of the weights that `of` names and over the inputs of those that `inputs_of`
    names, which begins at 1 (Liu et al. 2022, arXiv:2205.05638):

        y = l * (x w + bias)        y = (l * x) w

    Both are regular expressions that must match the end of a weight's path; a matrix's bias is named with it, as in
    "k|k_bias".
    """

    of: str = "k|v|k_bias|v_bias"
    inputs_of: str = "ffn.down"

    def __post_init__(self):
        pattern(self.of)
        pattern(self.inputs_of)

    def dress(self, params: Params, axes: Params, key: Array) -> Params:
        def one(path: Any, a: Axes, w: Array) -> Any:
            kept = self._kept(path, a)
            return w if kept is None else Scaled(w, jnp.ones([n if i in kept else 1 for i, n in enumerate(w.shape)]))

        return jax.tree_util.tree_map_with_path(one, axes, params, is_leaf=is_axes)

    def dress_axes(self, axes: Params) -> Params:
        def one(path: Any, a: Axes) -> Any:
            kept = self._kept(path, a)
            names: Any = None if kept is None else tuple(name if i in kept else None for i, name in enumerate(a.names))
            factor: Any = None if names is None else Axes(names)
            return a if factor is None else Scaled(a, factor)

        return jax.tree_util.tree_map_with_path(one, axes, is_leaf=is_axes)

    def chooses(self, path: str) -> bool:
        return path.endswith(".factor")

    def _kept(self, path: Any, a: Axes) -> tuple[int, ...] | None:
        """The dimensions that a weight's vector has, None where it gets none."""
        means = lambda of: bool(of) and re.search(rf"(^|\.)({of})$", spell(path)) is not None
        over_inputs = a.inputs and means(self.inputs_of)
        if not over_inputs and not means(self.of):
            return None
        gone = set(range(len(a.names))) - set(a.inputs) if over_inputs else set(a.inputs)
        lead = {i for i, name in enumerate(a.names) if name in ("layers", "experts")}
        return tuple(i for i in range(len(a.names)) if i not in gone - lead)
