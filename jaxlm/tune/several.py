"""Several adapters side by side on one base: one for each row of a batch."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array, Params
from jaxlm.errors import UserError
from jaxlm.models import ModelConfig
from jaxlm.ops.leaves import LowRank, LowRanks, chosen, is_leaf, lengths, several
from jaxlm.trains import spell


def alone(params: Params) -> Params:
    """The parameters without the adapters that stand side by side."""
    return jax.tree.map(lambda x: x.w if several(x) else x, params, is_leaf=is_leaf)


def beside(config: ModelConfig, params: Params, base: Params, adapted: Params, count: int, name: str) -> Params:
    """`params`, which have `count` adapters side by side (the first, number 0, changes nothing), with one more, number
    `count`: that of `adapted`, which is `base = alone(params)` with `LowRank` leaves.

    Raises UserError for one that changes more than matrices, and for matrices that are not plain products.
    """
    if sharding.mesh_size("layers") > 1:
        raise UserError("adapters side by side need whole batches, and this mesh makes a pipeline of the layers")

    def one(path: Any, old: Any, base: Any, new: Any) -> Any:
        if base is not new and not (isinstance(new, LowRank) and new.w is base):
            raise UserError(f"adapter {name!r} changes {spell(path)} by more than a low rank: load it alone")
        if base is new and not several(old):
            return old
        return _more(old, None if base is new else new, count)

    together = jax.tree_util.tree_map_with_path(one, params, base, adapted, is_leaf=is_leaf)
    _check(config, together, name)
    return together


def _more(old: Any, new: LowRank | None, count: int) -> LowRanks:
    """A leaf of one change more, with zeros where either has none."""
    whole = lambda x: sharding.constrain(x, *[None] * x.ndim)
    like: Any = old if several(old) else new
    lead, ins, outs = like.a.ndim - len(like.inputs) - (2 if several(old) else 1), like.inputs, like.outputs
    wide = lambda x, axis, r: jnp.pad(x, [(0, r - n if i == axis % x.ndim else 0) for i, n in enumerate(x.shape)])
    if new is None:
        a, b = (jnp.zeros_like(jax.lax.index_in_dim(x, 0, lead, False)) for x in (old.a, old.b))
    else:
        a, b = whole(new.a), whole(new.b) * new.scale
    if several(old):
        many_a, many_b = old.a, old.b
    else:
        many_a, many_b = (jnp.zeros((*x.shape[:lead], count, *x.shape[lead:]), x.dtype) for x in (a, b))
    r = max(a.shape[-1], many_a.shape[-1])
    joined = lambda many, x: jnp.concatenate([many, jnp.expand_dims(x, lead)], lead)
    low = joined(wide(many_a, -1, r), wide(a, -1, r))
    up = joined(wide(many_b, lead + 1, r), wide(b, lead, r))
    factor, of = getattr(old, "factor", None) if several(old) else None, _factor(new, lead)
    if factor is not None or of is not None:
        shape = (*up.shape[:lead], *up.shape[lead + 2 :])
        one = jnp.ones(shape) if of is None else of
        factor = jnp.ones((*shape[:lead], count, *shape[lead:])) if factor is None else factor
        factor = joined(factor, one)
    return LowRanks(old.w if several(old) else old, low, up, ins, outs, factor)


def _factor(new: LowRank | None, lead: int) -> Array | None:
    """What DoRA multiplies outputs by: m / |w + scale a b|."""
    if new is None or new.magnitude is None:
        return None
    ratio = new.magnitude / lengths(dataclasses.replace(new, magnitude=None).dense(), new.inputs)
    return sharding.constrain(jnp.squeeze(ratio, new.inputs), *[None] * (ratio.ndim - len(new.inputs)))


def _check(config: ModelConfig, params: Params, name: str) -> None:
    """Raises UserError, naming a weight, where the model does more with one than multiply."""
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)

    def fails(params: Params) -> bool:
        with sharding.no_mesh():
            args = config.example()
            run = functools.partial(config.build().apply, method="forward")
            try:
                jax.eval_shape(lambda params: run({"params": chosen(params, jnp.zeros(1, jnp.int32))}, *args), params)
            except (TypeError, AttributeError, ValueError):
                return True
        return False

    if not fails(params):
        return
    places = [path for path, x in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_leaf) if several(x)]
    for place in places:
        only = lambda path, x, place=place: x.w if several(x) and path != place else x
        if fails(jax.tree_util.tree_map_with_path(only, params, is_leaf=is_leaf)):
            raise UserError(f"adapter {name!r} changes {spell(place)}, which is no plain product here: load it alone")
    raise UserError(f"adapter {name!r} does not fit beside others: load it alone")
