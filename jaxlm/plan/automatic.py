"""How arrays lie whose types do not tell: those of a mesh's automatic axes, which the compiler lays out itself.

What is known of a dimension (from a constraint, or where the types of others tell) is handed on to those that
correspond to it in other arrays, forward and back, until nothing changes: first between arrays of one shape, then
through products and sums too. So does Shardy, XLA's partitioner. An axis divides one dimension of an array, and the
first that comes stays.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
from jax.extend import core
from jax.sharding import AxisType

from jaxlm import compat
from jaxlm.plan import graph
from jaxlm.plan.graph import Axes, Layout

Place = tuple[Any, int]  # a dimension of an array
FAR = ("dot_general", "reduce", "arg")  # what names of operations begin with whose results are of another shape


def layouts(jaxpr: Any, mesh: Any) -> dict[core.Var, Layout]:
    """The layout of every array in a program that has automatic axes; `mesh` gives the sizes of all."""
    spread = _Spread(mesh)
    spread.program(jaxpr)
    spread.settle(spread.near)
    spread.settle([*spread.near, *spread.far])
    return {v: tuple(dims) for v, dims in spread.dims.items() if automatic(v.aval)}


def automatic(aval: Any) -> bool:
    """Whether a type leaves axes to the compiler."""
    return bool(_free(aval))


def called(params: dict[str, Any]) -> Any:
    """The program that an equation such as jit, remat or custom_vjp_call stands for, or None."""
    inner = next((params[name] for name in ("jaxpr", "call_jaxpr", "fun_jaxpr") if params.get(name) is not None), None)
    return core.ClosedJaxpr(inner, []) if isinstance(inner, core.Jaxpr) else inner


def _free(aval: Any) -> set[str]:
    where = getattr(aval, "sharding", None)
    types = () if where is None else zip(where.mesh.axis_names, where.mesh.axis_types)
    return {name for name, type in types if type == AxisType.Auto}


class _Spread:
    """What is known so far, and which dimensions correspond: `near` in arrays of one shape, `far` otherwise."""

    def __init__(self, mesh: Any):
        self.mesh = mesh
        self.dims: dict[core.Var, list[Axes]] = {}
        self.fixed: set[Place] = set()
        self.near: list[tuple[Place, Place]] = []
        self.far: list[tuple[Place, Place]] = []

    def settle(self, links: list[tuple[Place, Place]]) -> None:
        changed = True
        while changed:
            changed = False
            for a, b in links:
                changed |= self.give(a, b)
            for a, b in reversed(links):
                changed |= self.give(b, a)

    def give(self, source: Place, target: Place) -> bool:
        (v, i), (x, j) = source, target
        axes = tuple(axis for axis in self.known(v)[i] if axis in _free(x.aval))
        dims = self.known(x)
        taken = dims[j] or target in self.fixed or any(axis in dim for dim in dims for axis in axes)
        if not axes or taken or x.aval.shape[j] % graph.count(axes, self.mesh):
            return False
        dims[j] = axes
        return True

    def known(self, v: core.Var) -> list[Axes]:
        if v not in self.dims:
            self.dims[v] = list(graph.layout(v.aval, self.mesh)[0])
            if not automatic(v.aval):
                self.fixed.update((v, i) for i in range(len(self.dims[v])))
        return self.dims[v]

    def program(self, jaxpr: Any) -> None:
        for eqn in jaxpr.eqns:
            name, p, ins, outs = eqn.primitive.name, eqn.params, eqn.invars, eqn.outvars
            inner = called(p)
            if name == "scan":
                self.loop(inner.jaxpr, ins, outs, *compat.scan_counts(p))
            elif name == "while":
                ins, n = ins[p["cond_nconsts"] :], p["body_nconsts"]
                self.loop(p["body_jaxpr"].jaxpr, ins, outs, n, len(ins) - n)
            elif name == "cond":
                for branch in p["branches"]:
                    self.call(branch.jaxpr, ins[1:], outs)
            elif name == "shard_map":
                self.edges(p["jaxpr"], ins, p["in_specs"])
                self.edges(p["jaxpr"], outs, p["out_specs"])
                self.call(p["jaxpr"], ins, outs)
            elif inner is not None and not name.startswith("pallas"):
                self.call(inner.jaxpr, ins, outs)
            elif any(automatic(v.aval) for v in (*ins, *outs)):
                if name == "sharding_constraint":
                    self.tell(outs[0], p["sharding"].spec, fix=True)
                (self.far if name.startswith(FAR) else self.near).extend(_links(eqn))

    def call(self, jaxpr: Any, ins: Iterable[Any], outs: Iterable[Any]) -> None:
        self.program(jaxpr)
        self.alike(zip(ins, jaxpr.invars))
        self.alike(zip(jaxpr.outvars, outs))

    def loop(self, jaxpr: Any, ins: list[Any], outs: list[Any], consts: int, carries: int) -> None:
        self.program(jaxpr)
        n = consts + carries
        self.alike(zip(ins[:n], jaxpr.invars))
        self.alike(zip(jaxpr.invars[consts:n], jaxpr.outvars))
        self.alike(zip(jaxpr.outvars[:carries], outs))
        for inner, whole in [*zip(jaxpr.invars[n:], ins[n:]), *zip(jaxpr.outvars[carries:], outs[carries:])]:
            self.near.extend(_pairs(inner, whole, ((i, i + 1) for i in range(len(inner.aval.shape)))))

    def edges(self, jaxpr: Any, outside: Iterable[Any], specs: Iterable[Any]) -> None:
        """What a shard_map says of its operands or results; all there is to say unless axes stay automatic within."""
        whole = not any(automatic(v.aval) for v in jaxpr.outvars)
        for v, spec in zip(outside, specs):
            self.tell(v, spec, fix=whole)

    def tell(self, v: Any, spec: Any, fix: bool) -> None:
        if isinstance(v, core.Var) and automatic(v.aval):
            dims = self.known(v)
            for i, entry in enumerate(spec):
                if entry is not jax.P.UNCONSTRAINED:
                    dims[i] = graph.axes(entry, self.mesh)
                    self.fixed.update([(v, i)] if fix else [])

    def alike(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        self.near.extend(link for a, b in pairs for link in _alike(a, b))


def _links(eqn: Any) -> Iterator[tuple[Place, Place]]:
    """Which dimensions of the operands and results of an equation correspond."""
    name, p, ins, outs = eqn.primitive.name, eqn.params, eqn.invars, eqn.outvars
    if not ins:
        return
    first, out = ins[0], outs[0]
    if name == "dot_general":
        yield from _product(p["dimension_numbers"], first, ins[1], out)
    elif name == "transpose":
        yield from _pairs(first, out, ((i, j) for j, i in enumerate(p["permutation"])))
    elif name == "broadcast_in_dim":
        yield from _pairs(first, out, enumerate(p["broadcast_dimensions"]))
    elif name in ("stack", "unstack"):
        more, fewer = (outs, ins) if name == "stack" else (ins, outs)
        for v in fewer:
            yield from _pairs(v, more[0], ((i, i + (i >= p["axis"])) for i in range(len(v.aval.shape))))
    elif name.startswith(FAR):
        kept = [i for i in range(len(first.aval.shape)) if i not in p["axes"]]
        yield from _pairs(first, out, zip(kept, range(len(kept))))
    elif name in ("reshape", "squeeze", "expand_dims"):
        yield from _pairs(first, out, _reshaped(first.aval.shape, out.aval.shape))
    elif name == "gather":
        where, sizes = p["dimension_numbers"], first.aval.shape
        kept = [i for i in range(len(sizes)) if i not in (*where.collapsed_slice_dims, *where.operand_batching_dims)]
        whole = ((i, j) for i, j in zip(kept, where.offset_dims) if p["slice_sizes"][i] == sizes[i])
        yield from _pairs(first, out, whole)
    else:
        several = len(ins) == len(outs)
        for a, b in zip(ins, outs) if several else ((a, b) for a in ins for b in outs):
            yield from _alike(a, b)


def _product(dimensions: Any, a: Any, b: Any, out: Any) -> Iterator[tuple[Place, Place]]:
    (a_sum, b_sum), (a_batch, b_batch) = dimensions
    a_free = [i for i in range(len(a.aval.shape)) if i not in (*a_sum, *a_batch)]
    b_free = [i for i in range(len(b.aval.shape)) if i not in (*b_sum, *b_batch)]
    n, m = len(a_batch), len(a_batch) + len(a_free)
    yield from _pairs(a, out, zip([*a_batch, *a_free], range(m)))
    yield from _pairs(b, out, zip([*b_batch, *b_free], [*range(n), *range(m, m + len(b_free))]))
    yield from _pairs(a, b, zip(a_sum, b_sum))


def _reshaped(shape: tuple[int, ...], to: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Dimensions that stay, and of those merged or split the first ones."""
    i = j = 0
    while i < len(shape) and j < len(to):
        yield i, j
        have, want = shape[i], to[j]
        while have != want:
            if have < want:
                i += 1
                have *= shape[i]
            else:
                j += 1
                want *= to[j]
        i, j = i + 1, j + 1


def _alike(a: Any, b: Any) -> Iterator[tuple[Place, Place]]:
    """Dimensions of one size, in arrays of as many dimensions."""
    sizes, others = (getattr(v.aval, "shape", ()) for v in (a, b))
    if len(sizes) == len(others):
        yield from _pairs(a, b, ((i, i) for i, (n, m) in enumerate(zip(sizes, others)) if n == m))


def _pairs(a: Any, b: Any, pairs: Iterable[tuple[int, int]]) -> Iterator[tuple[Place, Place]]:
    variables = isinstance(a, core.Var) and isinstance(b, core.Var)
    if variables and (automatic(a.aval) or automatic(b.aval)):  # between others there is nothing to hand on
        yield from (((a, i), (b, j)) for i, j in pairs)
