"""Quantisation: parameters in fewer bits, rounded to the nearest."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.axes import Array, Params
from jaxlm.errors import UserError, unknown
from jaxlm.models import ModelConfig, abstract
from jaxlm.ops.codes import BITS
from jaxlm.ops.leaves import Grouped, Int8, Scales, is_leaf
from jaxlm.optim import columns
from jaxlm.sharding import Axes
from jaxlm.trains import spell

EIGHT = {"int8": jnp.int8, "w8a8": jnp.int8, "fp8": jnp.float8_e4m3fn, "fp8_e5m2": jnp.float8_e5m2}
GROUPS = {"int4": 128, "nf4": 64, "ternary": 128, "bitnet": 128}
KINDS = (*EIGHT, *GROUPS)


def quantize(
    config: ModelConfig, params: Params, kind: str = "int8", group: int | None = None, double: bool = False
) -> Params:
    """The parameters with every matrix inside the layers stored as `kind`; tables, head and vectors stay as they are.

    "int8", "fp8" (e4m3) and "fp8_e5m2" have a scale for each output, and so has "w8a8", int8 that rounds activations
    too, token by token, and multiplies integers; "int4", "nf4", "ternary" and
    "bitnet" (ternary, activations rounded to int8) one for each `group`
    of inputs (128, nf4 64; where that does not divide their last dimension, the largest half, quarter, ... that does),
    see `ops.codes`. With `double` those scales are quantised too. They serve wherever parameters do, and each layer's
    matrices are dense only while it computes. Raises UserError for an unknown kind, a `group` that does not divide the
    inputs of a matrix (named), and parameters that are quantised already.
    """

    def one(path: Any, axes: Axes, w: Any) -> Any:
        if not is_matrix(axes):
            return w
        if getattr(w, "kind", None) == kind and hasattr(w, "real"):  # trained to be so, see `tune.qat`
            return w.real()
        if is_leaf(w):
            raise UserError(f"{spell(path)} is stored as {type(w).__name__} already")
        return stored(w, axes, spell(path), kind, group, double)

    check(kind)
    return jax.tree_util.tree_map_with_path(one, abstract(config)[1], params, is_leaf=lambda x: isinstance(x, Axes))


def is_matrix(axes: Axes) -> bool:
    """Whether a weight is a matrix of the layers."""
    return bool(axes.inputs and columns(axes)) and "vocab" not in axes.names


def check(kind: str) -> None:
    """Raises UserError for a kind that there is not."""
    if kind not in KINDS:
        raise unknown("kind of quantisation", kind, KINDS)


def stored(
    w: Array,
    axes: Axes,
    name: str,
    kind: str,
    group: int | None = None,
    double: bool = False,
    scale: Array | None = None,
) -> Any:
    """One matrix as a leaf of this kind; `scale` is in the leaf's own layout, and by default measured."""
    if kind in EIGHT:
        return Int8.of(w, axes.inputs, EIGHT[kind], scale, kind == "w8a8")
    group = group_of(w.shape[axes.inputs[-1]], name, kind, group)
    where = tuple(i - w.ndim for i in axes.inputs)
    return Grouped.of(w, where, lead(axes), code_of(kind), group, double, scale, kind == "bitnet")


def axes_of(axes: Axes, kind: str, double: bool = False) -> Any:
    """The axes of `stored`, in a leaf like it."""
    kept = lambda names: Axes(tuple(names), active=axes.active)
    if kind in EIGHT:
        scale: Any = kept(None if i in axes.inputs else name for i, name in enumerate(axes.names))
        last = (*(i for i in range(len(axes.names)) if i not in axes.inputs), *axes.inputs)
        q: Any = kept(axes.names[i] for i in last) if kind == "w8a8" else axes
        return Int8(q, scale, tuple(i - len(axes.names) for i in axes.inputs) if kind == "w8a8" else None)
    n, rest = lead(axes), [name for i, name in enumerate(axes.names) if i not in axes.inputs]
    rows: Any = kept([*rest, *(axes.names[i] for i in axes.inputs[:-1]), None])
    layers: Any = kept(rest[:n])
    blocks: Any = kept([*rest[:n], None])
    whole: Any = kept([*rest[:n], *[None] * (len(axes.names) - n)])  # each block of scales crosses outputs
    scales = Scales(whole, blocks, layers, len(axes.names) - n) if double else rows
    where = tuple(i - len(axes.names) for i in axes.inputs)
    return Grouped(rows, scales, code_of(kind), where, kind == "bitnet")


def code_of(kind: str) -> str:
    """The codes of `ops.codes` that a kind is kept in."""
    return "ternary" if kind == "bitnet" else kind


def lead(axes: Axes) -> int:
    """How many dimensions of a matrix are of layers and experts: those before its first input or output."""
    return min((*axes.inputs, *columns(axes)))


def group_of(width: int, name: str, kind: str, group: int | None) -> int:
    """The size of groups of so many inputs."""
    if group is None:
        group = math.gcd(width, GROUPS[kind])
    if width % group or group * BITS[code_of(kind)] % 8:
        raise UserError(f"{name} has {width} inputs: groups of {group} do not divide them into whole bytes")
    return group
