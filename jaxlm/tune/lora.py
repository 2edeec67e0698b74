"""Low-rank adaptation: a frozen model whose matrices get a trained product of two thin ones."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.axes import Array, Params
from jaxlm.config_check import check, within
from jaxlm.errors import UserError
from jaxlm.ops.leaves import LowRank, lengths
from jaxlm.optim import columns
from jaxlm.sharding import Axes
from jaxlm.trains import Trains, is_axes, pattern, spell
from jaxlm.tune.quantize import GROUPS, axes_of, stored
from jaxlm.tune.quantize import check as check_kind


@dataclasses.dataclass(frozen=True)
class LoRA(Trains):
    """Trains a and b of w + (alpha / rank) a b instead of each matrix w that `of` names (Hu et al. 2021,
    arXiv:2106.09685). a is drawn uniformly as Kaiming He et al. have it, b begins at zero: so does the change.

    `of` is a regular expression that must match the end of a weight's path: "q|v" is mixer.q and mixer.v of all layers,
    "mixer.*" all of the mixers. With `rslora` the product is scaled by alpha / sqrt(rank) (Kalajdzievski 2023,
    arXiv:2312.03732). With `dora` the length of each output's column is a third thing trained, apart from its direction
    (Liu et al. 2024, arXiv:2402.09353). With `base`, a kind of `tune.quantize` such as "nf4", w itself is kept in fewer
    bits, scales too where they are many (QLoRA, Dettmers et al. 2023, arXiv:2305.14314); `merge` makes it dense first.
    `dropout` is of the activations that a reads, `ranks` are others for matrices by their own regular expressions, the
    first that matches: (("ffn.*", 4),). An embedding table has a and b too, (V, rank) and (rank, D), where `of` names
    it: "embed.table".
    """

    rank: int = 8
    alpha: float = 16.0
    of: str = "q|v"
    rslora: bool = False
    dora: bool = False
    base: str = ""
    dropout: float = 0.0
    ranks: tuple[tuple[str, int], ...] = ()

    def __post_init__(self):
        check(self, rank=">= 1", alpha="> 0", dropout="[0, 1)")
        for one in (self.of, *(of for of, _ in self.ranks)):
            pattern(one)
        for of, rank in self.ranks:
            within(f"the rank of {of!r}", rank, ">= 1")
        if self.dora and self.dropout:
            raise UserError("DoRA needs the whole change of a matrix: leave dropout or dora out")
        if self.base:
            check_kind(self.base)

    def dress(self, params: Params, axes: Params, key: Array) -> Params:
        keys = iter(jax.random.split(key, len(jax.tree.leaves(axes, is_leaf=is_axes))))

        def one(path: Any, a: Axes, w: Array) -> Any:
            own = next(keys)
            if not self._means(path, a):
                return w
            lead, ins, outs = (tuple(w.shape[i] for i in dimensions) for dimensions in _dimensions(a))
            rank = self._rank(path)
            bound = (w.size / jnp.array(lead + outs).prod()) ** -0.5
            if a.inputs:
                down = jax.random.uniform(own, (*lead, *ins, rank), minval=-bound, maxval=bound)
                up = jnp.zeros((*lead, rank, *outs))
            else:  # a table, as peft draws it
                down, up = jnp.zeros((*ins, rank)), jax.random.normal(own, (rank, *outs))
            length = lengths(w, a.inputs) if self.dora and a.inputs else None
            base = stored(w, a, spell(path), self.base, double=self._double) if self.base and a.inputs else w
            return self._leaf(a, base, down, up, length, rank)

        return jax.tree_util.tree_map_with_path(one, axes, params, is_leaf=is_axes)

    def dress_axes(self, axes: Params) -> Params:
        def one(path: Any, a: Axes) -> Any:
            if not self._means(path, a):
                return a
            lead, ins, outs = (tuple(a.names[i] for i in dimensions) for dimensions in _dimensions(a))
            n = len(lead)
            down = Axes((*lead, *ins, None), tuple(range(n, n + len(ins))), a.active)
            length = None
            if self.dora and a.inputs:
                length = Axes(tuple(None if i in a.inputs else x for i, x in enumerate(a.names)))
            base = axes_of(a, self.base, self._double) if self.base and a.inputs else a
            return self._leaf(a, base, down, Axes((*lead, None, *outs), (n,), a.active), length, self._rank(path))

        return jax.tree_util.tree_map_with_path(one, axes, is_leaf=is_axes)

    def chooses(self, path: str) -> bool:
        return path.endswith((".a", ".b", ".magnitude"))

    @property
    def _double(self) -> bool:
        return self.base in GROUPS

    def _means(self, path: Any, a: Axes) -> bool:
        if not a.inputs and a.names[:1] != ("vocab",):
            return False
        found = re.search(rf"(^|\.)({self.of})$", spell(path)) is not None
        if found and self.dropout and ("experts" in a.names or "vocab" in a.names):
            raise UserError(
                f"dropout is of plain products, which {spell(path)} has no part in: leave it out, or dropout"
            )
        return found

    def _rank(self, path: Any) -> int:
        own = (rank for of, rank in self.ranks if re.search(rf"(^|\.)({of})$", spell(path)))
        return next(own, self.rank)

    def _leaf(self, axes: Axes, w: Any, a: Any, b: Any, magnitude: Any, rank: int) -> LowRank:
        from_end: Callable = lambda dimensions: tuple(i - len(axes.names) for i in dimensions)
        _, ins, outs = _dimensions(axes)
        scale = self.alpha / (rank**0.5 if self.rslora else rank)
        return LowRank(w, a, b, scale, from_end(ins), from_end(outs), magnitude, self.dropout)


def _dimensions(axes: Axes) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Of a matrix: those of layers and experts, its inputs, its outputs."""
    if not axes.inputs:  # a table
        return (), (0,), (1,)
    outs = columns(axes)
    lead = tuple(i for i in range(len(axes.names)) if i not in axes.inputs + outs)
    return lead, axes.inputs, outs
