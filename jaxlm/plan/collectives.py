"""The collectives of a compiled step, and over which devices: read from the partitioned program.

How TPU programs differ from what they mean: a reduce-scatter is a fusion called all-reduce-scatter with an all-reduce
in it; a collective that overlaps with products is copied into several fusions with one channel; between slices there
are pairs of send and recv of the runtime "megascale", in place of a collective.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

from jaxlm.nn.stack import GROUP
from jaxlm.plan.facts import KINDS, PARTS, Collective
from jaxlm.plan.hlo import Instruction, Module, Place, sizes

# A collective that reads a parameter is named by its module, or by that parameter alone: state.params[\'head\'].
SCOPES = {
    "layers": GROUP,
    "embedding": r"/embed|params\[\\?'embed",
    "loss": r"loss|params\[\\?'head",
    "optimizer": "optimizer",
}


def collectives(module: Module, axes: tuple[str, ...], slices: np.ndarray, own_ids: bool) -> tuple[Collective, ...]:
    """The collectives of a step, the costliest first.

    Args:
        axes: of the mesh.
        slices: the number of each device's slice or node, in the shape of the mesh.
        own_ids: in the program, devices are numbered within their slice (TPU), not over all.
    """
    found, copies = [], set()
    for x, place in module.walk():
        kind = _kind(x, place)
        if kind is None:
            continue
        if place.fused:
            key = x.number("channel_id"), place.times, x.shape, x.op
            if key in copies:
                continue
            copies.add(key)
        one = _collective(kind, x, place, axes, slices, own_ids)
        if one.size > 1:
            found.append(one)
    # A turn of a loop that stands before or after it has lost its name; the same one within it has not.
    named = {(c.kind, c.axes, c.shape): (c.part, c.op) for c in found if c.op}
    told = [(c, named.get((c.kind, c.axes, c.shape), (c.part, c.op))) for c in found]
    found = [c if c.op else dataclasses.replace(c, part=name, op=op) for c, (name, op) in told]
    return tuple(sorted(found, key=lambda c: -c.nbytes * c.times))


def _kind(x: Instruction, place: Place) -> str | None:
    if x.kind == "send" and "xla_megascale_runtime" in x.line:
        found = re.search(r'_xla_megascale_transfer_type="(\w+)"', x.line)
        kind = found[1].lower().replace("_", "-") if found else ""
        return kind if kind in KINDS else "collective-permute"
    kind = x.kind.removesuffix("-start")
    if kind == "all-reduce" and place.computation.startswith("all-reduce-scatter"):
        return "reduce-scatter"
    return kind if kind in KINDS else None


def _collective(kind: str, x: Instruction, place: Place, axes, slices: np.ndarray, own_ids: bool) -> Collective:
    op = x.op or place.op
    how = {"times": place.times, "part": part(op), "op": op}
    if x.kind == "send":
        over = tuple(a for i, a in enumerate(axes) if (np.diff(slices, axis=i) != 0).any())
        shape = x.shape.removeprefix("(").split("]")[0] + "]"
        return Collective(kind, sizes(shape)[0], axes=over, size=int(slices.max()) + 1, slow=True, shape=shape, **how)
    shape, nbytes = x.shape, sizes(x.shape)
    if x.kind.endswith("-start") and kind != "all-reduce":  # what it reads, what it gives, and counters
        arrays = re.findall(r"\w+\[[\d,]*\]", x.shape)
        shape, nbytes = (arrays[1], nbytes[1:2]) if len(arrays) > 1 else (shape, nbytes)
    positions = np.argwhere(slices == slices.min()) if own_ids else np.argwhere(slices >= 0)
    pairs = kind == "collective-permute"
    groups = _pairs(x.line) if pairs else _group(x.line)
    where = positions[groups] if groups.size else positions[None]  # (groups, members, axes)
    over = tuple(a for i, a in enumerate(axes) if (where[..., i] != where[:, :1, i]).any())
    size = math.prod(len(set(where[..., i].flat)) for i, a in enumerate(axes) if a in over) if pairs else where.shape[1]
    node = slices[tuple(np.moveaxis(where, -1, 0))]
    slow = not own_ids and bool((node != node[:, :1]).any())
    if x.kind.startswith("reduce-scatter"):
        nbytes = [n * size for n in nbytes]
    return Collective(kind, sum(nbytes), axes=over, size=size, slow=slow, shape=shape, **how)


def part(op: str) -> str:
    """The part of the program that an operation belongs to, by the names of its modules."""
    return next((name for name, scope in SCOPES.items() if re.search(scope, op)), PARTS[-1])


def _group(line: str) -> np.ndarray:
    """The devices of the first group that takes part, (1, members); empty where all do."""
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return np.array([[int(n) for n in found[1].split(",")]])
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", line):
        return _iota(found[3]).reshape(int(found[1]), int(found[2]))[:1]
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?\))?\))? ?\{([^}]*)\}", line):
        return _mesh_group(found[1], found[2], found[3])
    return np.zeros((0, 0), int)


def _iota(text: str) -> np.ndarray:
    """[4,2]T(1,0): the numbers from 0 in this shape, transposed, in a row."""
    shape, _, order = text.partition("T")
    numbers = lambda part: [int(n) for n in part.strip("[]()").split(",")]
    ids = np.arange(math.prod(numbers(shape))).reshape(numbers(shape))
    return (ids.transpose(numbers(order)) if order else ids).flatten()


def _mesh_group(mesh: str, ids: str | None, over: str) -> np.ndarray:
    """The first group over some axes, or parts of axes, of a mesh: 'a'=4,'b'=2 with {'b'} or {'a':(1)2}."""
    shape = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", mesh)}
    devices = (_iota(ids) if ids else np.arange(math.prod(shape.values()))).reshape(list(shape.values()))
    chosen = dict(_axes(over))
    index = []
    for name, n in shape.items():
        if name not in chosen:
            index.append([0])
            continue
        before, size = chosen[name] or (1, n)
        index.append([i * (n // (before * size)) for i in range(size)])
    return devices[np.ix_(*index)].reshape(1, -1)


def _axes(over: str) -> Iterator[tuple[str, tuple[int, int] | None]]:
    for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", over):
        yield name, (int(before), int(size)) if size else None


def _pairs(line: str) -> np.ndarray:
    """Who sends to whom, (pairs, 2)."""
    found = re.search(r"source_target_pairs=\{(.*?\})\}", line)
    return np.array([[int(n) for n in pair] for pair in re.findall(r"\{(\d+),(\d+)\}", found[0])] if found else [])
