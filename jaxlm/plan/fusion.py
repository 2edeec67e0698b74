"""Which arrays of a program are ever in memory, and which are computed where they are read.

The rule, of XLA's fusion: what is element by element, or another view, is computed wherever it is read, and is written
to memory when a kernel, a collective or a loop reads it, when several products do and computing it for each would move
as many bytes, or when it is a small part of a large array. A product is written after what follows it element by
element, as long as that has one reader and is no larger. `Compiler` says what a platform does otherwise.
"""

import dataclasses
from collections import defaultdict

from jaxlm.plan.graph import Block, Op, Value, itemsize

SAME = {"view", "reshape", "squeeze", "expand_dims", "transpose", "name", "pvary", "stop_gradient"}
SAME |= {"optimization_barrier", "random_wrap", "random_unwrap", "bitcast_convert_type"}
IN_MEMORY = {"kernel", "send", "loop", "move", "update"}  # what these read
CUTS = {"slice", "dynamic_slice", "gather"}
DEAR = {"exp", "exp2", "log", "log1p", "tanh", "logistic", "erf", "div", "rsqrt", "sqrt", "pow", "sin", "cos"}


@dataclasses.dataclass(frozen=True)
class Compiler:
    """What a platform's compiler puts into one pass over memory."""

    products: bool  # products and what is done to their operands and results; else they are a library's
    reductions: bool  # reductions and what is done to their operands, and a dear function again for each reader
    siblings: bool  # several results
    overlaps: bool  # collectives, which run beside what is computed before and after them
    hoists: bool  # the cast of all layers' weights instead of one layer's at a time
    tiles: bool  # what kernels read and write


COMPILERS = {
    "tpu": Compiler(products=True, reductions=True, siblings=True, overlaps=True, hoists=True, tiles=True),
    "gpu": Compiler(products=False, reductions=True, siblings=True, overlaps=True, hoists=True, tiles=False),
    "cpu": Compiler(products=False, reductions=False, siblings=False, overlaps=False, hoists=True, tiles=False),
}


@dataclasses.dataclass
class Step:
    """Something that runs: it reads arrays in memory and writes others."""

    op: Op
    reads: list[Value]
    writes: list[Value]  # into places of their own
    results: list[Value]  # into those of a program's or body's results


class Fusions:
    """The steps of a block, in order, and for every array what stands in memory for it."""

    def __init__(self, block: Block, compiler: Compiler):
        self.block, self.compiler = block, compiler
        self.maker = {id(v): op for op in block.ops for v in op.outs}
        self.same = {id(v): x for op in block.ops if op.name in SAME for x, v in zip(op.ins, op.outs)}
        self.readers: dict[int, list[Op]] = defaultdict(list)
        for op in block.ops:
            if op.name not in SAME:
                for v in _once(self.source(x) for x in op.ins):
                    self.readers[id(v)].append(op)
        self.results = {id(self.source(v)) for v in block.outs}
        self.known: dict[int, bool] = {}
        self.found: dict[int, list[Value]] = {}
        self.steps = list(self._steps())

    def source(self, v: Value) -> Value:
        """The array of which `v` is another view."""
        while id(v) in self.same:
            v = self.same[id(v)]
        return v

    def held(self, v: Value) -> bool:
        """Whether `v`, made in this block, is in memory."""
        if id(v) not in self.known:
            self.known[id(v)] = self._held(v)
        return self.known[id(v)]

    def _held(self, v: Value) -> bool:
        op, readers = self.maker[id(v)], self.readers[id(v)]
        if op.kind == "product" or self._ends_product(op):
            return not self._passed_on(v)
        if op.kind != "fused":
            return True
        if not any(self.roots(x) for x in op.ins):
            return False  # a constant
        if op.name in CUTS and any(16 * v.nbytes <= x.nbytes and id(x) in self.maker for x in map(self.source, op.ins)):
            return True  # so that the rest need not stay
        if op.name in DEAR and len(readers) > 1 and not self.compiler.reductions:
            return True
        return self._shared(v) or any(map(self._in_memory, readers))

    def _shared(self, v: Value) -> bool:
        """Whether products read `v`, and writing it once moves no more bytes than computing it for each of them."""
        products = sum(reader.kind == "product" for reader in self.readers[id(v)])
        read = sum(x.nbytes for x in self.reads(self.maker[id(v)]))
        return self.compiler.products and v.nbytes * (products + 1) <= read * (products - 1)

    def _in_memory(self, op: Op) -> bool:
        library = {"product": not self.compiler.products, "reduce": not self.compiler.reductions}
        return op.kind in IN_MEMORY or library.get(op.kind, False)

    def _ends_product(self, op: Op) -> bool:
        return op.kind == "fused" and any(self._passed_on(x) for x in map(self.source, op.ins))

    def _passed_on(self, v: Value) -> bool:
        """Whether `v`, a product and what was done to it so far, is written only after its one reader."""
        op, readers = self.maker.get(id(v)), self.readers[id(v)]
        if op is None or not self.compiler.products or id(v) in self.results or len(readers) != 1:
            return False
        if op.kind != "product" and not self._ends_product(op):
            return False
        reader = readers[0]
        return (
            reader.kind == "fused"
            and len(reader.outs) == 1
            and reader.outs[0].shape == v.shape
            and reader.outs[0].nbytes <= v.nbytes
        )

    def roots(self, v: Value) -> list[Value]:
        """The arrays in memory that are read where `v` is."""
        v = self.source(v)
        if id(v) not in self.found:
            op = self.maker.get(id(v))
            if op is None or self.held(v):
                self.found[id(v)] = [] if v.literal else [v]
            else:
                self.found[id(v)] = self.reads(op)
        return self.found[id(v)]

    def reads(self, op: Op) -> list[Value]:
        """The arrays in memory that `op` reads."""
        return _once(root for x in op.ins for root in self.roots(x))

    def _steps(self):
        for op in self.block.ops:
            if op.name not in SAME:
                writes = [v for v in op.outs if self.held(v)]
                results = [v for v in op.outs if id(v) in self.results and not self.held(v)]
                if writes or results:
                    yield Step(op, self.reads(op), writes, results)


def _once(values) -> list[Value]:
    return list({id(v): v for v in values}.values())


def hoist(block: Block) -> None:
    """Moves casts out of loops: where a body reads its part of an array only to cast it to fewer bytes, the whole is
    cast before the loop."""
    done: dict[tuple[int, str], Value] = {}
    ops: list[Op] = []
    for op in block.ops:
        if op.body is not None:
            for i, v in op.scanned():
                readers = [o for o in op.body.ops if any(x is v for x in o.ins)]
                kinds = {(o.name, str(o.outs[0].dtype)) for o in readers}
                if len(kinds) != 1 or readers[0].name != "convert_element_type":
                    continue
                whole, dtype = op.ins[i], readers[0].outs[0].dtype
                if itemsize(dtype) >= itemsize(whole.dtype):
                    continue
                key = id(whole), str(dtype)
                if key not in done:
                    done[key] = dataclasses.replace(whole, dtype=dtype)
                    ops.append(Op("fused", "convert_element_type", [whole], [done[key]], path=op.path))
                op.ins[i], v.dtype = done[key], dtype
                for o in readers:
                    o.name = "view"
            hoist(op.body)
        ops.append(op)
    block.ops = ops
