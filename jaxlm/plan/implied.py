"""What the compiler sends where operands lie otherwise than an operation needs them, by the layouts in the types.

A product needs a divided dimension that is summed over to lie alike in both operands, and every other as the result
has it. What a device lacks of an operand is gathered (a weight divided by fsdp); a sum over divided positions is
scattered where the result is divided over the same devices, else added up everywhere (the gradient of a weight).
"""

import dataclasses
from typing import Any

from jaxlm.plan.graph import Axes, Layout, local


@dataclasses.dataclass(frozen=True)
class Step:
    """A collective over `axes` after which the array lies as `layout` and is to be summed over `unreduced` still."""

    kind: str
    axes: Axes
    layout: Layout
    unreduced: Axes = ()


def reshard(at: Layout, unreduced: Axes, to: Layout, left: Axes = ()) -> list[Step]:
    """From one layout to another: sums first, then what moves, then what is gathered. Slicing sends nothing."""
    steps, here, sums = [], at, tuple(axis for axis in unreduced if axis not in left)
    missing = tuple(axis for axis in sums if any(axis in dim for dim in to) and not any(axis in dim for dim in here))
    if missing:
        here = tuple(dim + tuple(a for a in want if a in missing) for dim, want in zip(here, to, strict=True))
        steps.append(Step("reduce-scatter", missing, here, tuple(a for a in unreduced if a not in missing)))
    if rest := tuple(axis for axis in sums if axis not in missing):
        steps.append(Step("all-reduce", rest, here, left))
    gone = tuple(axis for have, want in zip(here, to, strict=True) for axis in have if axis not in want)
    moved = tuple(axis for axis in gone if any(axis in dim for dim in to))
    if moved:
        here = tuple(
            tuple(a for a in have if a not in moved) + tuple(a for a in want if a in moved and a not in have)
            for have, want in zip(here, to, strict=True)
        )
        steps.append(Step("all-to-all", moved, here, left))
    if gathered := tuple(axis for axis in gone if axis not in moved):
        here = tuple(tuple(a for a in dim if a not in gathered) for dim in here)
        steps.append(Step("all-gather", gathered, here, left))
    return steps


@dataclasses.dataclass(frozen=True)
class Product:
    """How a product is computed on devices."""

    left: Layout  # as the operands must lie
    right: Layout
    at: Layout  # as the parts of the result lie before they are added up
    sums: Axes  # the axes over which they are
    flops: float  # of one device


def product(
    left: tuple[tuple[int, ...], Layout],
    right: tuple[tuple[int, ...], Layout],
    out: Layout,
    dimensions: Any,
    mesh: Any,
) -> Product:
    """The plan for a dot_general of operands (whole shape, layout) whose result is to lie as `out`."""
    (a_shape, a), (b_shape, b) = left, right
    (a_sum, b_sum), (a_batch, b_batch) = dimensions
    a_free = [i for i in range(len(a)) if i not in (*a_sum, *a_batch)]
    b_free = [i for i in range(len(b)) if i not in (*b_sum, *b_batch)]
    used = {axis for dim in out for axis in dim}
    a_need, b_need, sums = list(a), list(b), []
    for i, j in zip(a_sum, b_sum):
        both = tuple(axis for axis in a[i] if axis in b[j])
        # An axis that divides one operand only: the other is sliced, unless its devices hold different parts of it.
        taken = used.union(both)
        dim = both + _alone(a[i], taken, b) + _alone(b[j], taken, a)
        a_need[i] = b_need[j] = dim
        sums += dim
    rows = list(zip([*a_batch, *a_free], out))
    columns = list(zip([*b_batch, *b_free], out[: len(a_batch)] + out[len(a_batch) + len(a_free) :]))
    for need, pairs in ((a_need, rows), (b_need, columns)):
        for i, want in pairs:
            need[i] = tuple(axis for axis in want if axis not in sums)
    at = tuple(tuple(axis for axis in dim if axis not in sums) for dim in out)
    a_local, b_local = local(a_shape, tuple(a_need), mesh), local(b_shape, tuple(b_need), mesh)
    flops = 2.0
    for n in (*a_local, *(b_local[i] for i in b_free)):
        flops *= n
    return Product(tuple(a_need), tuple(b_need), at, tuple(sums), flops)


def _alone(axes: Axes, taken: set[str], other: Layout) -> Axes:
    return tuple(axis for axis in axes if axis not in taken and not any(axis in dim for dim in other))
