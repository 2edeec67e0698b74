"""What a token costs in a compiled decoding loop: caches copied, launches, and how often weights are read."""

import math
import re
from collections.abc import Iterator
from typing import Any

from jaxlm.plan.hlo import Instruction, Module, dims, operands, sizes

FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call"}
MOVES = {"copy-start", "async-start"}  # transfers between memories, beside what computes
MATRIX = 2**16  # bytes of the smallest constant of the loop that counts as a matrix


def costs(module: Module, cache: list[int], weights: int) -> dict[str, Any]:
    """Of one turn of the outermost loop.

    Args:
        cache: elements of every cache, on one device.
        weights: bytes of the parameters on one device, without tables of which rows are looked up only.
    """
    loop = next(x for x in module.computations[module.entry] if x.kind == "while")
    body = _called(loop, "body")
    runs = [(x, n) for x, n in _runs(module, body) if x.kind not in FREE and '"ConcatBitcast"' not in x.line]
    return {
        "cache_copied": sum(n * _copied(module, x, set(cache)) for x, n in runs),
        "launches": sum(n for x, n in runs if x.kind not in MOVES),
        "transfers": sum(n for x, n in runs if x.kind in MOVES),
        "weights_read": _weights(module, module.computations[body]) / weights,
    }


def _runs(module: Module, body: str) -> Iterator[tuple[Instruction, int]]:
    """What is started by itself in a turn of this loop, and how often; nothing of single numbers."""
    steps = [(x, place) for x, place in module.walk(body) if not place.fused]
    parts = {_called(x) for x, _ in steps if x.kind == "async-start"}
    for x, place in steps:
        scalar = x.kind != "fusion" and dims(x.shape) == [()]
        if not (place.computation in parts or scalar or x.kind.endswith(("-done", "-update"))):
            yield x, place.times


def _called(x: Instruction, how: str = "calls") -> str:
    found = re.search(rf"{how}=%?([\w.\-]+)", x.line)
    return found[1] if found else ""


def _copied(module: Module, x: Instruction, cache: set[int]) -> int:
    """Bytes that `x` writes into the device's memory of arrays as large as a cache; none where it writes in place."""
    inner = module.computations.get(_called(x), []) if x.kind == "fusion" else [x]
    placed = [math.prod(d) for y in inner if y.kind == "dynamic-update-slice" for d in dims(y.shape)]
    results = x.line.partition(" = ")[2].partition(f" {x.kind}(")[0]
    arrays = [shape for shape in re.findall(r"\w+\[[\d,]*\](?:\{[^}]*\})?", results)]
    if x.kind == "copy-start":  # what it gives, what it reads, and a counter
        arrays = arrays[:1]
    elif x.kind == "async-start":
        arrays = arrays[len(operands(x.line)) :]
    written = 0
    for shape in arrays:
        n = math.prod(dims(shape)[0]) if dims(shape) else 1
        if n in placed:
            placed.remove(n)
        elif n in cache and not re.search(r"S\(\d", shape):  # S(1) is the vector memory
            written += sizes(shape)[0]
    return written


def _weights(module: Module, body: list[Instruction]) -> int:
    """Bytes of the loop's constants that a turn reads."""
    reads = [(x, operands(x.line)) for x in body]
    users: dict[str, list[Instruction]] = {}
    for x, names in reads:
        for name in dict.fromkeys(names):
            users.setdefault(name, []).append(x)
    kept, taken = operands(next(x for x in body if "ROOT" in x.line).line), {}
    for x, names in reads:
        if x.kind == "get-tuple-element":
            taken.setdefault((names[0], x.number("index")), []).append(x)
    total = 0
    for (_, index), same in taken.items():
        passed = any(x.name == kept[index] for x in same if index < len(kept))  # on to the next turn as it is
        if passed and sum(sizes(same[0].shape)) >= MATRIX:
            total += sum(_read(module, users, x) for x in same)
    return total


def _read(module: Module, users: dict[str, list[Instruction]], source: Instruction) -> int:
    """Bytes that the users of an array read of it."""
    total, whole = 0, sum(sizes(source.shape))
    for x in users.get(source.name, []):
        if x.kind in ("tuple", "while") or x.kind.endswith("-done"):
            continue
        if x.kind in ("bitcast", "reshape"):
            total += _read(module, users, x)
        elif x.kind in ("fusion", "async-start"):
            inner = module.computations[_called(x)]
            total += sum(_within(inner, at, whole) for at, name in enumerate(operands(x.line)) if name == source.name)
        elif x.kind in ("slice", "dynamic-slice", "gather"):
            total += sum(sizes(x.shape))
        else:
            total += whole
    return total


def _within(inner: list[Instruction], at: int, whole: int) -> int:
    """Bytes that a fusion reads of its operand number `at`: of one that is cut only, the cuts."""
    given = next(x for x in inner if x.kind == "parameter" and f" parameter({at})" in x.line)
    users, seen = [given], []
    while users:
        found = [x for x in inner if users[0].name in operands(x.line)]
        users = users[1:] + [x for x in found if x.kind == "bitcast"]
        seen += [x for x in found if x.kind != "bitcast"]
    cuts = all(x.kind in ("slice", "dynamic-slice", "gather") for x in seen)
    return sum(sum(sizes(x.shape)) for x in seen) if cuts else whole
