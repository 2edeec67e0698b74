"""Bottleneck adapters: small networks behind the branches of a frozen model."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.axes import Array, Params
from jaxlm.config_check import check
from jaxlm.errors import UserError, unknown
from jaxlm.ops.activations import ACTIVATIONS
from jaxlm.ops.leaves import Bottleneck
from jaxlm.optim import columns
from jaxlm.sharding import Axes
from jaxlm.trains import Trains, is_axes, pattern, spell


@dataclasses.dataclass(frozen=True)
class Bottlenecks(Trains):
    """Trains a network of `width` units behind each matrix that `of` names (see `ops.leaves.Bottleneck`): behind both
    branches of a layer (Houlsby et al. 2019, arXiv:1902.00751), with of="ffn.down" behind the second alone (Pfeiffer et
    al. 2021, arXiv:2005.00247). At first it changes nothing.
    """

    width: int = 64
    of: str = "mixer.o|ffn.down"
    activation: str = "relu"

    def __post_init__(self):
        check(self, width=">= 1")
        pattern(self.of)
        if self.activation not in ACTIVATIONS:
            raise unknown("activation", self.activation, ACTIVATIONS)

    def dress(self, params: Params, axes: Params, key: Array) -> Params:
        keys = iter(jax.random.split(key, len(jax.tree.leaves(axes, is_leaf=is_axes))))

        def one(path: Any, a: Axes, w: Array) -> Any:
            own = next(keys)
            if not self._means(path, a):
                return w
            lead, D = w.shape[: len(self._lead(a))], w.shape[-1]
            shrink = jax.random.normal(own, (*lead, D, self.width)) * D**-0.5
            zeros = lambda *shape: jnp.zeros((*lead, *shape))
            return Bottleneck(w, shrink, zeros(self.width), zeros(self.width, D), zeros(D), self.activation)

        return jax.tree_util.tree_map_with_path(one, axes, params, is_leaf=is_axes)

    def dress_axes(self, axes: Params) -> Params:
        def one(path: Any, a: Axes) -> Any:
            if not self._means(path, a):
                return a
            lead, n = self._lead(a), len(self._lead(a))
            of = lambda *names, inputs=(): Axes((*lead, *names), inputs)
            whole, thin = of(None), of("embed", None, inputs=(n,))
            back: Any = of(None, "embed", inputs=(n,))
            first: Any = thin
            bias: Any = whole
            return Bottleneck(a, first, bias, back, bias, self.activation)

        return jax.tree_util.tree_map_with_path(one, axes, is_leaf=is_axes)

    def chooses(self, path: str) -> bool:
        return path.endswith((".shrink", ".shrink_bias", ".grow", ".grow_bias"))

    def _means(self, path: Any, a: Axes) -> bool:
        if not a.inputs or re.search(rf"(^|\.)({self.of})$", spell(path)) is None:
            return False
        if columns(a) != (len(a.names) - 1,) or "experts" in a.names:
            raise UserError(f"a bottleneck stands behind a branch of a layer, not behind {spell(path)}")
        return True

    def _lead(self, a: Axes) -> tuple[str | None, ...]:
        return a.names[: min(a.inputs)]
