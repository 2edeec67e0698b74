"""How much of a device's memory a program takes at its height, and what it computes and moves step by step.

Arrays are in memory from the step that writes them to the last that reads them (`plan.fusion` says which are). A loop
holds what it scans over, what it carries and what it stacks, and in it the height of its body. A result may take the
place of an operand of its size that is read for the last time, a carry only of what it begins as: so carries, and
state that is given away, stay in place.
"""

import sys
from collections import Counter
from collections.abc import Collection, Iterator

from jaxlm.plan.facts import Pass
from jaxlm.plan.fusion import CUTS, Compiler, Fusions
from jaxlm.plan.graph import Block, Op, Value


def height(block: Block, compiler: Compiler, free: Collection[int] = ()) -> tuple[int, list[Value]]:
    """The most bytes that are in memory at once of what `block` makes itself, and the arrays that are there then.

    `free`: ids of arrays outside whose places its results may take.
    """
    f = Fusions(block, compiler)
    last = {id(v): t for t, step in enumerate(f.steps) for v in step.reads}
    last |= {id(root): len(f.steps) for v in block.outs for root in f.roots(v)}
    early = _overlapped(f, last) if compiler.overlaps and block.carries else {}  # in loops
    places = {id(v): v.nbytes for v in block.ins if id(v) in free}
    live: dict[int, Value] = {}
    now, top, there = 0, 0, []
    copied = 0 if compiler.siblings else _copied(f, places)
    for t, step in enumerate(f.steps):
        op, dying = step.op, [v for v in step.reads if last[id(v)] == t]
        taken = dying if op.body is None else _carried(f, op, dying)
        outside = [places[id(v)] for v in taken if id(v) in places]
        inside = [v.nbytes for v in taken if id(v) in live]
        inner, within, in_place = 0, [], step.writes if op.kind in ("fused", "update") else []
        if op.body is not None:
            in_place = op.outs[: op.body.carries]
            inner, within = height(op.body, compiler, {id(v) for v in op.body.ins[: op.body.carries]})
        for v in dying:
            places.pop(id(v), None)
        for v in early.get(t, ()):
            live[id(v)] = v
            now += v.nbytes
        for v in step.writes:
            if id(v) in live:
                continue
            if v in in_place and v.nbytes in outside:
                outside.remove(v.nbytes)
                places[id(v)] = v.nbytes
                continue
            live[id(v)] = v
            if v in in_place and v.nbytes in inside:
                inside.remove(v.nbytes)
            else:
                now += v.nbytes
        if now + inner > top:
            top, there = now + inner, [*live.values(), *within]
        for v in [*dying, *(v for v in step.writes if id(v) not in last)]:
            live.pop(id(v), None)
        now = sum(v.nbytes for v in live.values())
    return top + copied, there


def _carried(f: Fusions, op: Op, dying: list[Value]) -> list[Value]:
    """Those of `dying` where a loop's carries begin. What else it reads, it reads until its last turn."""
    assert op.body is not None
    constants = len(op.ins) - len(op.body.ins)
    roots = lambda xs: {id(root) for x in xs for root in f.roots(x)}
    begin = roots(op.ins[constants:][: op.body.carries]) - roots(op.ins[:constants])
    return [v for v in dying if id(v) in begin]


def _overlapped(f: Fusions, last: dict[int, int]) -> dict[int, list[Value]]:
    """What collectives give, by the step that they run beside: the last that computes before them. Until the first
    after them what they send is not free either."""
    heavy = [t for t, step in enumerate(f.steps) if step.op.kind in ("product", "kernel")]
    early: dict[int, list[Value]] = {}
    for t, step in enumerate(f.steps):
        if step.op.kind == "send":
            before = [h for h in heavy if h < t]
            early.setdefault(before[-1] if before else t, []).extend(step.writes)
            after = next((h for h in heavy if h > t), t)
            for v in step.reads:
                last[id(v)] = max(last[id(v)], after)
    return early


def _copied(f: Fusions, places: dict[int, int]) -> int:
    """Bytes of arguments that several results are computed from, of which one takes their place: a compiler that writes
    each result by itself copies them first."""
    readers = Counter(id(root) for v in f.block.outs if f.roots(v) != [f.source(v)] for root in f.roots(v))
    return sum(size for key, size in places.items() if readers[key] > 1)


def passes(block: Block, compiler: Compiler, times: int = 1) -> Iterator[Pass]:
    """What every step computes and moves: it reads its operands once, of one that it cuts a part from the part, and
    writes its results once. What is computed into the results of a program or body in one pass is read once for all of
    them."""
    f, read = Fusions(block, compiler), set()
    for step in f.steps:
        op = step.op
        if op.body is not None:
            yield from passes(op.body, compiler, times * op.times)
            continue
        if op.kind == "update":  # of a place in an array that stays where it is
            yield Pass(_computed(f, op, set()), 2 * sum(v.nbytes for v in op.ins[1:]), times)
            continue
        last = bool(step.results) and not step.writes
        parts: dict[int, int] = {}
        for v in op.ins:
            for key, size in _read(f, v, op).items():
                parts[key] = max(size, parts.get(key, 0))
        moved = sum(size for key, size in parts.items() if not (last and key in read))
        moved += sum(v.nbytes for v in (*step.writes, *step.results))
        read |= parts.keys() if last else set()
        yield Pass(_computed(f, op, set()), moved, times)


def _computed(f: Fusions, op: Op, seen: set[int]) -> float:
    """FLOPs of `op` and of all that is computed where it reads it."""
    seen.add(id(op))
    makers = (f.maker.get(id(v)) for v in map(f.source, op.ins) if id(v) in f.maker and not f.held(v))
    return op.flops + sum(_computed(f, maker, seen) for maker in makers if maker and id(maker) not in seen)


def _read(f: Fusions, v: Value, op: Op) -> dict[int, int]:
    """Bytes that reading `v` for `op` takes of every array in memory."""
    v = f.source(v)
    most = max(x.nbytes for x in op.outs) if op.name in CUTS else sys.maxsize
    maker = f.maker.get(id(v))
    if maker is None or f.held(v):
        return {} if v.literal else {id(v): min(v.nbytes, most)}
    found: dict[int, int] = {}
    for x in maker.ins:
        for key, size in _read(f, x, maker).items():
            found[key] = max(min(size, most), found.get(key, 0))
    return found
