"""What matrices multiply: a function evaluated equation by equation, its products with certain weights looked at.

No module says anywhere that it may be watched: the weight of a product is found by following it, through casts and new
shapes, from the function's argument.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from jaxlm import compat
from jaxlm.axes import Array

SAME = ("convert_element_type", "copy", "name", "reshape", "squeeze", "transpose", "sharding_constraint")


@dataclasses.dataclass(frozen=True)
class Product:
    """A weight's inputs, (N, I): the dimensions of w that are summed over as one, in w's order. Weights that multiply
    the same activations have the same `of`."""

    x_NI: Array
    of: int


def products(f: Callable, weights: Mapping[str, Array], *args: Any) -> tuple[Any, dict[str, Product]]:
    """f(weights, *args), and the first product of each of the weights, in the order in which they are met.

    Of matrices that are products without dimensions of a batch: others, such as experts', are left out.
    """
    closed, shapes = jax.make_jaxpr(f, return_shape=True)(weights, *args)
    names: dict[Any, str] = dict(zip(closed.jaxpr.invars, sorted(weights)))  # leaves of a dict come sorted
    met: dict[str, Product] = {}
    flat = jax.tree.leaves((weights, *args))
    outs = _evaluate(closed.jaxpr, closed.consts, flat, names, met)
    return jax.tree.unflatten(jax.tree.structure(shapes), outs), met


def _evaluate(jaxpr: Any, consts: Any, args: Any, weight_of: dict[Any, str], met: dict[str, Product]) -> list[Any]:
    values: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
    roots: dict[Any, Any] = {}
    read = lambda v: v.val if isinstance(v, Literal) else values[v]
    for eqn in jaxpr.eqns:
        ins, variables = [read(v) for v in eqn.invars], [v for v in eqn.invars if not isinstance(v, Literal)]
        name, inner = eqn.primitive.name, _called(eqn)
        if inner is not None and any(v in weight_of for v in variables):
            pairs = zip(inner.jaxpr.invars, eqn.invars, strict=True)
            passed = {i: weight_of[v] for i, v in pairs if not isinstance(v, Literal) and v in weight_of}
            outs = _evaluate(inner.jaxpr, inner.consts, ins, passed, met)
        else:
            outs = compat.bind(eqn, ins)
        if name in SAME and variables:
            roots[eqn.outvars[0]] = roots.get(variables[0], variables[0])
            if variables[0] in weight_of:
                weight_of[eqn.outvars[0]] = weight_of[variables[0]]
        elif name == "dot_general":
            _look(eqn, ins, weight_of, roots, met)
        values.update(zip(eqn.outvars, outs))
    return [read(v) for v in jaxpr.outvars]


def _called(eqn: Any) -> Any:
    """The function that an equation calls as it is, None where it does something else."""
    if eqn.primitive.name not in ("pjit", "jit", "closed_call", "remat", "checkpoint", "custom_jvp_call"):
        return None
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    if inner is None or hasattr(inner, "consts"):
        return inner
    return ClosedJaxpr(inner, ())


def _look(eqn: Any, ins: Any, weight_of: dict, roots: dict, met: dict[str, Product]) -> None:
    which = [not isinstance(v, Literal) and v in weight_of for v in eqn.invars]
    (summed, batch) = eqn.params["dimension_numbers"]
    if sum(which) != 1 or any(batch):
        return
    w, x = (0, 1) if which[0] else (1, 0)
    if weight_of[eqn.invars[w]] in met:
        return
    dims = [summed[x][i] for i in np.argsort(summed[w])]
    inner = int(np.prod([ins[x].shape[i] for i in dims]))
    x_NI = jnp.moveaxis(ins[x], dims, range(-len(dims), 0)).reshape(-1, inner)
    met[weight_of[eqn.invars[w]]] = Product(x_NI, id(roots.get(eqn.invars[x], eqn.invars[x])))
