"""A traced program as one device sees it: operations on its own part of every array.

On an explicit mesh the type of every intermediate array says how it is divided, so sizes and FLOPs per device are
read off, and where operands lie otherwise than a product needs them, what has to be sent. `plan.implied` says which
collectives those are; here they are operations like all others. Calls are written out, loops keep their bodies.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm import compat
from jaxlm.nn.stack import GROUP, PERIODS

Axes = tuple[str, ...]
Layout = tuple[Axes, ...]  # for every dimension, the mesh axes that divide it

LANES = 128  # of a TPU's tiles
SHORT = {"bfloat16": "bf16", "float": "f", "uint": "u", "int": "s", "bool": "pred"}  # as compilers write dtypes


@dataclasses.dataclass(eq=False)
class Value:
    """An array of one device: its part of the whole."""

    shape: tuple[int, ...]
    dtype: Any
    layout: Layout = ()
    unreduced: Axes = ()  # the whole is the sum of the parts over these axes
    due: tuple[tuple[int, ...], Layout, Axes] | None = None  # whole shape, layout and unreduced that its type asks for
    host: bool = False  # in the host's memory
    literal: bool = False  # written in the program
    share: float = 1.0  # of a kernel's constant mask: that of the blocks that it does not skip
    tiled: bool = False  # stands in whole tiles, which are LANES wide

    @property
    def size(self) -> int:
        """Bytes, wherever they are."""
        shape = (*self.shape[:-1], -(-self.shape[-1] // LANES) * LANES) if self.tiled else self.shape
        return math.prod(shape) * itemsize(self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the device's memory."""
        return 0 if self.host else self.size

    def __str__(self) -> str:
        name = str(self.dtype)
        for long, short in SHORT.items():
            name = name.replace(long, short)
        return f"{name}[{','.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True)
class Sent:
    """A collective."""

    kind: str  # of facts.KINDS
    axes: Axes
    size: int  # devices
    whole: Value  # as facts.Collective counts its bytes


@dataclasses.dataclass(eq=False)
class Op:
    """What reads `ins` and gives `outs`.

    kind: "fused" (element by element, or only another view: a compiler computes it where it is read), "reduce",
    "product", "kernel", "move" (gathers, sorts), "update" (into its first operand), "send" and "loop".
    """

    kind: str
    name: str
    ins: list[Value]
    outs: list[Value]
    flops: float = 0.0
    sent: Sent | None = None
    body: "Block | None" = None
    times: int = 1
    path: str = ""

    @property
    def part(self) -> str:
        """Of the program, of facts.PARTS."""
        path = self.path
        if GROUP in path or PERIODS in path:
            return "layers"
        if "embed" in path or "positions" in path:
            return "embedding"
        if "jvp" in path:
            return "other" if "LM.forward" in path and "norm" not in path else "loss"
        return "optimizer"

    def scanned(self) -> list[tuple[int, Value]]:
        """Of a loop: which of `ins` it takes apart, by number, each with the slice that its body reads."""
        slices = self.body.ins[self.body.carries :] if self.body is not None else []
        return list(enumerate(slices, len(self.ins) - len(slices)))


@dataclasses.dataclass(eq=False)
class Block:
    """A program, or the body of a loop. A body's `ins` and `outs` are its carries, and then slices of what the loop
    scans over and stacks; its constants are the arrays outside themselves."""

    ins: list[Value]
    ops: list[Op]
    outs: list[Value]
    carries: int = 0


def walk(block: Block, times: int = 1) -> Iterator[tuple[Op, int]]:
    """All operations with how often each is done."""
    for op in block.ops:
        yield op, times
        if op.body is not None:
            yield from walk(op.body, times * op.times)


def layout(aval: Any, mesh: Any) -> tuple[Layout, Axes]:
    """How the type `aval` divides an array over `mesh`, and over which axes it is still to be summed."""
    where = getattr(aval, "sharding", None)
    if where is None or where.mesh.empty:
        return ((),) * len(aval.shape), ()
    entries = compat.partitions(where.spec)
    dims = tuple(axes(entry, mesh) for entry in entries) + ((),) * (len(aval.shape) - len(entries))
    return dims, tuple(axis for axis in mesh.axis_names if axis in where.spec.unreduced and mesh.shape[axis] > 1)


def axes(entry: Any, mesh: Any) -> Axes:
    """Those of an entry of a PartitionSpec that divide anything."""
    names = () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
    return tuple(axis for axis in names if mesh.shape[axis] > 1)


def count(axes: Sequence[str], mesh: Any) -> int:
    """Devices along these axes."""
    return math.prod(mesh.shape[axis] for axis in axes)


def local(shape: Sequence[int], dims: Layout, mesh: Any) -> tuple[int, ...]:
    """A device's part of `shape`."""
    return tuple(-(-n // count(axes, mesh)) for n, axes in zip(shape, dims, strict=True))


def itemsize(dtype: Any) -> int:
    """A random key has eight bytes."""
    return 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.extended) else jnp.dtype(dtype).itemsize
