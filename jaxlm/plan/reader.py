"""From a jaxpr to `plan.graph`: every equation as an operation of one device."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxlm import compat
from jaxlm.plan import graph, implied
from jaxlm.plan.automatic import called, layouts
from jaxlm.plan.graph import Axes, Block, Layout, Op, Sent, Value
from jaxlm.plan.kernels import PRODUCTS, is_kernel, kernel_flops, product_flops

REDUCE = ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "argmax", "argmin")
MOVE = ("gather", "sort", "top_k", "cumsum", "cummax", "cumlogsumexp", "random_bits", "rng_bit_generator")
RESHARDS = ("reshard", "sharding_constraint")
SENDS = {  # jax's names
    "psum": "all-reduce",
    "psum2": "all-reduce",
    "psum_invariant": "all-reduce",
    "pmax": "all-reduce",
    "pmin": "all-reduce",
    "all_gather": "all-gather",
    "all_gather_invariant": "all-gather",
    "all_gather_reduced": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "unreduced_reduce_scatter": "reduce-scatter",
    "unreduced_psum": "all-reduce",
    "all_to_all": "all-to-all",
    "ragged_all_to_all": "all-to-all",
    "ppermute": "collective-permute",
}


def read(closed: Any, mesh: Any) -> Block:
    """A whole program; `mesh` gives the sizes of its axes."""
    reader = _Reader(mesh, layouts(closed.jaxpr, mesh))
    ins = [reader.value(var) for var in closed.jaxpr.invars]
    return Block(ins, reader.ops, reader.run(closed, ins, ""))


class _Reader:
    """Collects the operations of one block."""

    def __init__(self, mesh: Any, layouts: dict[core.Var, Layout]):
        self.mesh, self.layouts, self.ops = mesh, layouts, []
        self.brought: dict[Any, tuple[Value, Value]] = {}  # arrays that were brought into another layout already

    def run(self, closed: Any, args: list[Value], path: str) -> list[Value]:
        """The equations of a program; its results."""
        jaxpr = closed.jaxpr
        consts = [self.constant(x, var) for x, var in zip(closed.consts, jaxpr.constvars, strict=True)]
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
        get = lambda x: self.value(x, literal=True) if isinstance(x, core.Literal) else known[x]
        for eqn in jaxpr.eqns:
            where = f"{path}/{eqn.source_info.name_stack}"
            ins = self.together(eqn, [get(x) for x in eqn.invars], where)
            known.update(zip(eqn.outvars, self.equation(eqn, ins, where), strict=True))
        return [self.settled(get(x), path) for x in jaxpr.outvars]

    def together(self, eqn: Any, ins: list[Value], path: str) -> list[Value]:
        """Operands whose sums over devices are taken, unless they may wait: parts are added before their sum is taken,
        and one that is resharded is scattered at once."""
        name = eqn.primitive.name
        if name in RESHARDS:
            return ins
        parts = [(x.layout, x.unreduced, x.due) for x in ins]
        if name in ("add_any", "add") and ins[0].due is not None and parts[0] == parts[1]:
            return ins
        return [self.settled(x, path) for x in ins]

    def settled(self, x: Value, path: str) -> Value:
        return x if x.due is None else self.bring(x, *x.due, path)

    def value(self, v: Any, **more: Any) -> Value:
        aval = v.aval
        if not hasattr(aval, "shape"):  # a token
            return Value((), np.bool_)
        dims, unreduced = graph.layout(aval, self.mesh)
        dims = dims if isinstance(v, core.Literal) else self.layouts.get(v, dims)
        host = getattr(aval, "memory_space", None) == jax.memory.Space.Host
        return Value(graph.local(aval.shape, dims, self.mesh), aval.dtype, dims, unreduced, host=host, **more)

    def constant(self, x: Any, v: Any) -> Value:
        small = v.aval.dtype in (np.int8, np.int16) and len(v.aval.shape) == 3  # which blocks a mask leaves
        return self.value(v, share=float((np.asarray(x) != 0).mean()) if small else 1.0)

    def add(self, kind: str, name: str, ins: list[Value], outs: list[Value], path: str, **more: Any) -> list[Value]:
        self.ops.append(Op(kind, name, ins, outs, path=path, **more))
        return outs

    def equation(self, eqn: Any, ins: list[Value], path: str) -> list[Value]:
        name, p = eqn.primitive.name, eqn.params
        if name == "scan":
            return self.loop(eqn, p["jaxpr"], ins, *compat.scan_counts(p), p["length"], path)
        if name == "while":  # nobody knows how often: counted once
            first, consts = p["cond_nconsts"], p["body_nconsts"]
            ins = ins[first:]
            return self.loop(eqn, p["body_jaxpr"], ins, consts, len(ins) - consts, 1, path)
        if name == "cond":
            return self.branch(p["branches"], ins[1:], path)
        if name == "shard_map":
            inner = p["jaxpr"]
            args = [self.view(x, v, path) for x, v in zip(ins, inner.invars, strict=True)]
            outs = self.run(core.ClosedJaxpr(inner, []), args, path)
            return [self.view(x, v, path) for x, v in zip(outs, eqn.outvars, strict=True)]
        if name in SENDS:
            return [self.sent(eqn, x, v, path) for x, v in zip(ins, eqn.outvars, strict=True)]
        if name == "dot_general":
            return [self.product(eqn, ins, path)]
        if name in RESHARDS:
            return [self.reshard(eqn, ins[0], path)]
        if name in REDUCE or name.startswith("scatter"):
            return [self.summing(eqn, name, ins, path)]
        if not is_kernel(name) and (inner := called(p)):
            return self.run(inner, ins, path)
        outs = [self.typed(v, ins) for v in eqn.outvars]
        if is_kernel(name):
            return self.add("kernel", name, ins, outs, path, flops=kernel_flops(eqn, ins))
        if name in PRODUCTS:
            return self.add("product", name, ins, outs, path, flops=product_flops(eqn, ins[0], ins[1], outs[0]))
        kind = "move" if name in MOVE else "update" if name.startswith("dynamic_update_slice") else "fused"
        return self.add(kind, name, ins, outs, path)

    def typed(self, v: Any, ins: list[Value]) -> Value:
        """The value of a result; that of a sum still to be taken, where its operands are one."""
        return dataclasses.replace(ins[0]) if ins and ins[0].due is not None else self.value(v)

    def view(self, x: Value, v: Any, path: str) -> Value:
        """The same bytes under another type."""
        out = self.value(v)
        out.share = x.share
        return self.add("fused", "view", [x], [out], path)[0]

    def bring(self, x: Value, shape: tuple[int, ...], to: Layout, left: Axes, path: str) -> Value:
        """`x` in another layout; asked twice, it is brought once."""
        key = id(x), to, left
        if key not in self.brought:
            here = x
            for step in implied.reshard(x.layout, x.unreduced, to, left):
                out = Value(graph.local(shape, step.layout, self.mesh), x.dtype, step.layout, step.unreduced)
                here = self.collective(step.kind, step.axes, here, out, path)
            if here.layout != to:
                out = Value(graph.local(shape, to, self.mesh), x.dtype, to, left)
                here = self.add("fused", "part", [here], [out], path)[0]
            self.brought[key] = here, x  # x is kept, so that no other has its id
        return self.brought[key][0]

    def collective(self, kind: str, axes: Axes, x: Value, out: Value, path: str) -> Value:
        sent = Sent(kind, axes, graph.count(axes, self.mesh), out if kind == "all-gather" else x)
        return self.add("send", kind, [x], [out], path, sent=sent)[0]

    def sent(self, eqn: Any, x: Value, v: Any, path: str) -> Value:
        """A collective that the program itself has."""
        names = eqn.params.get("axes", eqn.params.get("axis_name"))
        names = names if isinstance(names, (tuple, list)) else (names,)
        axes = tuple(axis for axis in names if isinstance(axis, str) and self.mesh.shape[axis] > 1)
        if not axes:
            return self.view(x, v, path)
        return self.collective(SENDS[eqn.primitive.name], axes, x, self.value(v), path)

    def reshard(self, eqn: Any, x: Value, path: str) -> Value:
        out = self.value(eqn.outvars[0])
        return self.bring(x, eqn.outvars[0].aval.shape, out.layout, out.unreduced, path)

    def summing(self, eqn: Any, name: str, ins: list[Value], path: str) -> Value:
        """A reduction over divided dimensions, or updates that are divided and added to an array that is not."""
        out = self.typed(eqn.outvars[0], ins)
        if name in REDUCE:
            dims = eqn.params["axes"]
            sums = tuple(axis for i in dims for axis in ins[0].layout[i])
            at = tuple(axes for i, axes in enumerate(ins[0].layout) if i not in dims)
            return self.summed("reduce", name, ins, eqn, out, at, sums, path)
        held = {axis for dim in out.layout for axis in dim} | set(out.unreduced)
        sums = tuple(axis for dim in ins[2].layout for axis in dim if axis not in held)
        return self.summed("update", name, ins, eqn, out, out.layout, sums, path)

    def summed(
        self, kind: str, name: str, ins: list[Value], eqn: Any, out: Value, at: Layout, sums: Axes, path: str, **more
    ) -> Value:
        """An operation whose result, lying as `at`, is to be added up over the devices of `sums`."""
        sums = tuple(dict.fromkeys(sums))
        if not sums:
            return self.add(kind, name, ins, [out], path, **more)[0]
        shape = eqn.outvars[0].aval.shape
        own = Value(graph.local(shape, at, self.mesh), out.dtype, at, (*sums, *out.unreduced))
        own.due = shape, out.layout, out.unreduced
        return self.add(kind, name, ins, [own], path, **more)[0]

    def product(self, eqn: Any, ins: list[Value], path: str) -> Value:
        (a, b), dimensions = (v.aval.shape for v in eqn.invars), eqn.params["dimension_numbers"]
        out = self.value(eqn.outvars[0])
        plan = implied.product((a, ins[0].layout), (b, ins[1].layout), out.layout, dimensions, self.mesh)
        sides = [self.bring(ins[0], a, plan.left, (), path), self.bring(ins[1], b, plan.right, (), path)]
        sums = tuple(axis for axis in plan.sums if axis not in out.unreduced)
        return self.summed("product", "dot_general", sides, eqn, out, plan.at, sums, path, flops=plan.flops)

    def branch(self, branches: Any, ins: list[Value], path: str) -> list[Value]:
        """Of a condition, what computes most."""
        tried = [_Reader(self.mesh, self.layouts) for _ in branches]
        outs = [reader.run(branch, ins, path) for reader, branch in zip(tried, branches)]
        total = lambda i: sum(op.flops * n for op, n in graph.walk(Block([], tried[i].ops, [])))
        most = max(range(len(tried)), key=total)
        self.ops += tried[most].ops
        return outs[most]

    def loop(self, eqn: Any, closed: Any, ins: list[Value], consts: int, carries: int, times: int, path: str):
        """A body that runs `times` times. It reads the constants themselves, and parts of what is scanned over."""
        reader = _Reader(self.mesh, self.layouts)
        own = [self.value(v) for v in closed.jaxpr.invars[consts:]]
        results = reader.run(closed, [*ins[:consts], *own], path)
        body = Block(own, reader.ops, results, carries)
        outs = [self.value(v) for v in eqn.outvars]
        return self.add("loop", eqn.primitive.name, ins, outs, path, body=body, times=times)
