"""What it costs on TPUs that memory is read and written in tiles of 128 lanes."""

import dataclasses

from jaxlm.plan.graph import LANES, Block, Op, Value

PADDED = 4  # times its bytes: what a matrix may take in tiles for the compiler to choose them (4 seen, 8 not)
VECTOR_MEMORY = 128 * 2**20  # bytes of a core's


def tile(block: Block) -> None:
    """Marks what stands in whole tiles: what kernels read and write, whose layout is not the compiler's to choose, and
    what that is computed from element by element, back to where it was saved."""
    maker = {id(v): op for op in block.ops for v in op.outs}

    def mark(v: Value) -> None:
        if v.tiled or len(v.shape) < 2:
            return
        v.tiled, op = True, maker.get(id(v))
        for x in op.ins if op is not None and op.kind == "fused" else ():
            if x.shape[-1:] == v.shape[-1:]:
                mark(x)

    for op in reversed(block.ops):  # what reads an array comes before what made it
        for v in (*op.ins, *op.outs) if op.kind == "kernel" else ():
            mark(v)
        if op.body is not None:
            outs = list(zip(op.body.outs, op.outs, strict=True))
            for inner, outer in outs:
                inner.tiled |= outer.tiled
            tile(op.body)
            for inner, outer in outs:
                outer.tiled |= inner.tiled
            for inner, outer in zip(reversed(op.body.ins), reversed(op.ins)):  # constants come first
                if inner.tiled:
                    mark(outer)
    for op in block.ops:
        for v in op.outs if op.kind == "fused" else ():
            v.tiled |= any(x.tiled and x.shape[-1:] == v.shape[-1:] for x in op.ins)


def sum_whole(block: Block) -> None:
    """Where a device's part of a matrix fills no whole tiles, its sum over devices is not scattered: all of it is added
    up everywhere and the part cut out. What the part updates is copied into tiles like its own, unless that takes more
    than PADDED times its bytes: as the first thing in a step, by way of the vector memory, if it fits there."""
    ops: list[Op] = []
    copies: dict[int, Value] = {}
    for op in block.ops:
        out = op.outs[0] if op.name == "reduce-scatter" else None
        if out is None or op.sent is None or len(out.shape) != 2 or not any(n % LANES for n in out.shape):
            ops.append(op)
            continue
        whole = dataclasses.replace(op.ins[0])
        sent = dataclasses.replace(op.sent, kind="all-reduce")
        ops.append(dataclasses.replace(op, name="all-reduce", outs=[whole], sent=sent))
        ops.append(Op("move", "part", [whole], [out], path=op.path))
        out.tiled = True
        for x in block.ins:  # of any dtype: the sum may be of a narrower one than the weight and its moments
            copy = dataclasses.replace(x, tiled=True)
            if x.shape == out.shape and x.size < copy.size <= PADDED * x.size and x.size <= VECTOR_MEMORY:
                copies[id(x)] = copy
    for op in ops:
        op.ins = [copies.get(id(x), x) for x in op.ins]
    first = [Op("move", "copy", [x], [copies[id(x)]]) for x in block.ins if id(x) in copies]
    block.ops = first + ops


def turn_weights(block: Block) -> None:
    """Weights (D, H, K) of products that give (..., H, K) are copied into another order of dimensions before a decoding
    loop begins: one of unknown length, over layers."""
    ops: list[Op] = []
    for op in block.ops:
        inner = op.body.ops if op.name == "while" and op.body is not None else []
        copies = [whole for layers in inner for whole in _turned(layers)]
        turned = [dataclasses.replace(whole) for whole in copies]
        ops += [Op("move", "copy", [whole], [copy]) for whole, copy in zip(copies, turned)]
        op.ins = turned + op.ins
        ops.append(op)
    block.ops = ops


def _turned(layers: Op) -> list[Value]:
    inside = layers.body.ops if layers.body is not None else []
    stacks = {id(v): layers.ins[i] for i, v in layers.scanned()}
    weights = [(op.ins[1], op.outs[0]) for op in inside if op.kind == "product"]
    return [stacks[id(w)] for w, out in weights if id(w) in stacks and w.shape[1:] == out.shape[-2:]]
