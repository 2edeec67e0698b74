"""GPTQ: weights rounded in turn, each error made up for by the weights that are still to be rounded."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.axes import Array
from jaxlm.ops import codes
from jaxlm.sharding import Axes
from jaxlm.tune.quantize import EIGHT, group_of, stored
from jaxlm.tune.seen import Matrix, Seen
from jaxlm.tune.solve import blocks_of, solve, upper


def gptq(
    matrices: list[Matrix],
    seen: Seen,
    kind: str = "int4",
    group: int | None = None,
    act_order: bool = True,
    damp: float = 0.01,
) -> list[Any]:
    """Leaves of `kind` for the matrices that multiply what was `seen` (Frantar et al. 2022, arXiv:2210.17323).

    With `act_order` the inputs of the largest activations are rounded first, while most others can make up for it, and
    groups have the scales of the weights as they are given; else inputs come in order, and a group's scale is that of
    its weights as they have become.
    """
    return [_one(m, seen, kind, group, act_order, damp) for m in matrices]


def _one(m: Matrix, seen: Seen, kind: str, group: int | None, act_order: bool, damp: float) -> Any:
    count = math.prod(m.w.shape[i] for i in m.axes.inputs)
    size = count if kind in EIGHT else group_of(m.w.shape[m.axes.inputs[-1]], m.name, kind, group)
    order_I = np.argsort(-np.diag(seen.hessian_II), kind="stable") if act_order else np.arange(count)
    u_II, alive_I = upper(np.asarray(seen.hessian_II)[order_I][:, order_I], damp)
    return _solve(m.w, u_II, alive_I, order_I, axes=m.axes, size=size, kind=kind, fixed=act_order or kind in EIGHT)


@functools.partial(jax.jit, static_argnames=("axes", "size", "kind", "fixed"))
def _solve(
    w: Array, u_II: Array, alive_I: Array, order_I: Array, *, axes: Axes, size: int, kind: str, fixed: bool
) -> Any:
    m = Matrix(w, "", axes)
    given_IO = m.w_IO
    w_IO, group_I = jnp.where(alive_I[:, None], given_IO[order_I], 0), order_I // size
    scale_GO = scales(given_IO, size, kind)
    block = blocks_of(len(w_IO)) if fixed else size

    def plan(w_BO: Array, u_BB: Array, start: Array) -> Array:
        of_B = jax.lax.dynamic_slice(group_I, (start,), (block,))
        return scale_GO[of_B] if fixed else jnp.broadcast_to(scales(w_BO, size, kind), w_BO.shape)

    def column(w_O: Array, scale_BO: Array, i: Array) -> Array:
        return rounded(w_O, scale_BO[i], kind)

    made_IO, used = solve(w_IO, u_II, block, plan, column)
    made = m.like(jnp.zeros_like(made_IO).at[order_I].set(made_IO))
    scale = _scale(m, scale_GO if fixed else used[:, 0], kind)
    return stored(made, axes, "", kind, None if kind in EIGHT else size, scale=scale)


def scales(w_IO: Array, size: int, kind: str) -> Array:
    """(groups, O) of each group of so many inputs."""
    if kind in EIGHT:
        largest = jnp.max(jnp.abs(w_IO), 0, keepdims=True)
        dtype = EIGHT[kind]
        return largest / (127 if dtype == jnp.int8 else float(jnp.finfo(dtype).max))
    return codes.scale_of(w_IO.T, kind, size).T


def rounded(w: Array, scale: Array, kind: str) -> Array:
    """Each number as the nearest that its scale allows."""
    y = w / jnp.where(scale == 0, 1, scale)
    if kind not in EIGHT:
        return codes.nearest_level(y, kind) * scale
    dtype = EIGHT[kind]
    return (jnp.clip(jnp.round(y), -127, 127) if dtype == jnp.int8 else y.astype(dtype).astype(y.dtype)) * scale


def _scale(m: Matrix, scale_GO: Array, kind: str) -> Array:
    """The scales as the leaf has them."""
    ins = [m.w.shape[i] for i in m.axes.inputs]
    outs = [n for i, n in enumerate(m.w.shape) if i not in m.axes.inputs]
    if kind in EIGHT:
        scale = jnp.where(scale_GO == 0, 1, scale_GO)
        return scale.reshape([1 if i in m.axes.inputs else n for i, n in enumerate(m.w.shape)])
    scale = scale_GO.reshape(*ins[:-1], -1, *outs)
    return jnp.moveaxis(scale, range(len(ins)), range(-len(ins), 0))
