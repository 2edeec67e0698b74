"""The text of a compiled program: its computations, and how often a step runs each instruction.

What XLA dumps as `after_optimizations.txt`: partitioned, so that shapes are those of one device.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

ITEMSIZE = {"pred": 1, "token": 0, "bf16": 2}  # others have their bits in their names
HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(")
CALL = re.compile(r"(calls|to_apply|body|true_computation|false_computation|called_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
SHAPE = re.compile(r"\b(pred|token|bf16|[a-z]+(\d+)\w*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation."""

    name: str
    shape: str  # without layouts; of all results where there are several
    kind: str  # such as "all-gather"
    line: str

    @functools.cached_property
    def op(self) -> str:
        """What jax calls it: the names of modules and functions that it came from."""
        found = re.search(r'op_name="([^"]*)"', self.line)
        return found[1] if found else ""

    def number(self, name: str) -> int | None:
        """The value of an attribute like channel_id=7."""
        found = re.search(rf"\b{name}=(\d+)", self.line)
        return int(found[1]) if found else None


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an instruction stands."""

    times: int  # that a step runs it
    computation: str
    fused: bool  # in the body of a fusion, of which the compiler makes copies
    op: str  # of the nearest caller that has one


class Module:
    """A parsed program."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry, current = "", []
        for line in text.splitlines():
            if header := HEADER.match(line):
                current = self.computations.setdefault(header[2], [])
                self.entry = header[2] if header[1] else self.entry
            elif found := INSTRUCTION.match(line):
                current.append(Instruction(found[1], plain(found[2]), found[3], line))

    @property
    def size(self) -> int:
        """Instructions, those of fusions included."""
        return sum(map(len, self.computations.values()))

    def op(self, name: str) -> str:
        """What jax calls the instruction of this name."""
        return self._named[name].op if name in self._named else ""

    def walk(self, entry: str = "") -> Iterator[tuple[Instruction, Place]]:
        """Every instruction that a step runs, or one run of a computation; those in loops with the number of turns."""
        entry = entry or self.entry
        yield from self._walk(entry, Place(1, entry, False, ""))

    def _walk(self, name: str, place: Place) -> Iterator[tuple[Instruction, Place]]:
        body = self.computations.get(name, [])
        for x in body:
            yield x, place
            times = place.times * (self._turns(x, body) if x.kind == "while" else 1)
            called = [name for how, name in CALL.findall(x.line) if how != "to_apply" or x.kind == "call"]
            for group in BRANCHES.findall(x.line):
                called += re.findall(r"[\w.\-]+", group)
            for other in called:
                fused = place.fused or x.kind == "fusion"
                yield from self._walk(other, Place(times, other, fused, x.op or self._loop_op(x) or place.op))

    def _turns(self, loop: Instruction, body: list[Instruction]) -> int:
        """How often a loop runs: what the compiler says, or else the span of its counter; 1 if neither is there."""
        if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.line):
            return int(known[1])
        test = next((x for x in self._condition(loop) if x.kind == "compare" and "direction=LT" in x.line), None)
        if test is None:
            return 1
        counter, limit = (self._named.get(name) for name in operands(test.line)[:2])
        end = self._constant(limit)
        if counter is None or end is None:
            return 1
        start = next((x for x in body if x.name in operands(loop.line)), None)
        index, first = counter.number("index"), operands(start.line) if start is not None else []
        begin = self._constant(self._named.get(first[index])) if index is not None and index < len(first) else None
        return max(end - (begin or 0), 1)

    def _condition(self, loop: Instruction) -> list[Instruction]:
        found = re.search(r"condition=%?([\w.\-]+)", loop.line)
        return self.computations.get(found[1], []) if found else []

    def _loop_op(self, x: Instruction) -> str:
        """What jax calls the test of a loop, where the loop itself lost its name."""
        return next((y.op for y in self._condition(x) if y.op), "") if x.kind == "while" else ""

    def _constant(self, x: Instruction | None) -> int | None:
        """The number that an instruction is, or copies."""
        while x is not None and x.kind in ("copy", "bitcast", "convert"):
            x = self._named.get(operands(x.line)[0])
        found = re.search(r" constant\((\d+)\)", x.line) if x is not None else None
        return int(found[1]) if found else None

    @functools.cached_property
    def _named(self) -> dict[str, Instruction]:
        return {x.name: x for body in self.computations.values() for x in body}


def operands(line: str) -> list[str]:
    """The names of what an instruction reads, without its attributes."""
    found = re.search(r" [a-z][\w\-]*\((.*?)\)(?:,|$)", line.partition(" = ")[2])
    return re.findall(r"%([\w.\-]+)", found[1]) if found else []


def plain(shape: str) -> str:
    """A shape without layouts: bf16[4,8]{1,0:T(8,128)} is bf16[4,8]."""
    return re.sub(r"\{[^{}]*\}|/\*.*?\*/", "", shape)


def dims(shape: str) -> list[tuple[int, ...]]:
    """The dimensions of every array in a shape."""
    return [tuple(int(n) for n in d.split(",") if n) for _, _, d in SHAPE.findall(shape)]


def sizes(shape: str) -> list[int]:
    """The bytes of every array in a shape."""
    each = zip((ITEMSIZE.get(kind, int(bits or 0) // 8) for kind, bits, _ in SHAPE.findall(shape)), dims(shape))
    return [itemsize * math.prod(d) for itemsize, d in each]
