"""Which of a model's parameters a run trains, as a value. The others stay as they begin: they get no gradient, no
moments, and no place in checkpoints.

A tree of parameters is split into two like it, each with None where the other has the array.
"""

import abc
import dataclasses
import re
from typing import Any

import jax

from jaxlm.axes import Array, Params
from jaxlm.errors import UserError
from jaxlm.sharding import Axes


class Trains(abc.ABC):
    """A frozen dataclass: `dress` may put leaves of more than one array among the parameters (see `ops.leaves`), and
    `chooses` says which arrays are trained."""

    def dress(self, params: Params, axes: Params, key: Array) -> Params:
        """The parameters with whatever this adds to them, its initial values drawn with `key`."""
        return params

    def dress_axes(self, axes: Params) -> Params:
        """`axes` of the parameters, like what `dress` gives."""
        return axes

    def undress(self, params: Params) -> Params:
        """The model's own parameters in joined ones: without what only training needs."""
        return params

    @abc.abstractmethod
    def chooses(self, path: str) -> bool:
        """Whether the array at this path of dressed parameters, as "segment_0.periods.block_0.mixer.q", is trained."""

    def split(self, dressed: Params) -> tuple[Params, Params]:
        """Dressed parameters, or a tree like them, as what is trained and what is frozen."""
        paths = jax.tree_util.tree_map_with_path(lambda path, x: self.chooses(spell(path)), dressed, is_leaf=is_axes)
        trained = jax.tree.map(lambda yes, x: x if yes else None, paths, dressed, is_leaf=is_axes)
        return trained, jax.tree.map(lambda yes, x: None if yes else x, paths, dressed, is_leaf=is_axes)

    def check(self, axes: Params) -> None:
        """Raises UserError where nothing of a model whose parameters have these axes would be trained."""
        if not jax.tree.leaves(self.split(self.dress_axes(axes))[0], is_leaf=is_axes):
            paths = [spell(path) for path, _ in jax.tree_util.tree_leaves_with_path(axes, is_leaf=is_axes)]
            raise UserError(f"trains={self}: the model has no such weights, it has {', '.join(paths[:8])}, ...")


def join(trained: Params, frozen: Params | None) -> Params:
    """The inverse of `Trains.split`; `frozen` None stands for nothing."""
    if frozen is None:
        return trained
    return jax.tree.map(lambda a, b: b if a is None else a, trained, frozen, is_leaf=lambda x: x is None)


@dataclasses.dataclass(frozen=True)
class All(Trains):
    """Every parameter."""

    def chooses(self, path: str) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class Only(Trains):
    """The parameters whose path the regular expression `of` finds a match in; `All` but those with `frozen`."""

    of: str
    frozen: bool = False

    def __post_init__(self):
        pattern(self.of)

    def chooses(self, path: str) -> bool:
        return (re.search(self.of, path) is not None) != self.frozen


@dataclasses.dataclass(frozen=True)
class Also(Trains):
    """What `of` trains, and the weights whose path the regular expression `names` finds a match in: the head of a
    classifier, norms beside adapters."""

    of: Trains
    names: str

    def __post_init__(self):
        pattern(self.names)

    def dress(self, params: Params, axes: Params, key: Array) -> Params:
        return self.of.dress(params, axes, key)

    def dress_axes(self, axes: Params) -> Params:
        return self.of.dress_axes(axes)

    def chooses(self, path: str) -> bool:
        base = path.endswith(".w")  # of a leaf that adapts it
        return self.of.chooses(path) or (not base and re.search(self.names, path) is not None)

    def check(self, axes: Params) -> None:
        self.of.check(axes)


def pattern(text: str) -> re.Pattern:
    """The regular expression. Raises UserError where it is none."""
    try:
        return re.compile(text)
    except re.error as error:
        raise UserError(f"{text!r} is no regular expression: {error}") from None


def spell(path: Any) -> str:
    """The path of an array in a tree, its keys joined by dots."""
    return ".".join(str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", "")))) for entry in path)


def is_axes(x: Any) -> bool:
    return isinstance(x, Axes)
