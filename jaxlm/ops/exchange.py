"""Between devices that own different experts of a layer, or different parts of one: collectives, to be called inside
`sharding.shard_map`.

With a capacity, slots go to their expert's owner and back (`to_owners`, `from_owners`; GShard, Lepikhin et al. 2020,
arXiv:2006.16668). Without one nobody knows how many tokens come, all of them at most. So instead every device is shown
the tokens of all (`gathered`), does the choices that fell on its own experts (`own`), and results are added (`summed`).

An expert's width is gathered (`whole_width`); by its hidden width devices compute parts of sums (`into_stream`).

Of M tokens a device with A choices each, the first holds and moves its slots, about capacity M A rows. The second holds
X M tokens and X M min(A, E / X) rows, so it is for few devices X or few tokens; its work is by what really comes.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxlm import sharding
from jaxlm.axes import Array


def alike(*trees: Any) -> tuple[Any, ...]:
    """The same trees, all varying over the same devices. What is alike at the start has its gradients added up over
    devices at the end, when they are as small again as the arrays were."""
    zero = sum(jnp.zeros_like(x, jnp.float32, shape=()) for x in jax.tree.leaves(trees))
    return jax.tree.map(lambda x: x + jnp.astype(zero, x.dtype), trees)


def to_owners(x_EQD: Array) -> Array:
    """This device's slots of all E experts -> all X devices' slots of its own experts, (E / X, X Q, D)."""
    axes = sharding.divided("experts")
    return lax.all_to_all(x_EQD, axes, 0, 1, tiled=True) if axes else x_EQD


def from_owners(y_EQD: Array) -> Array:
    """The way back of `to_owners`."""
    axes = sharding.divided("experts")
    return lax.all_to_all(y_EQD, axes, 1, 0, tiled=True) if axes else y_EQD


def gathered(x: Array) -> Array:
    """The rows of all devices, one device's after the other's."""
    return lax.all_gather(x, sharding.divided("experts"), axis=0, tiled=True)


def summed(y: Array) -> Array:
    """The sum over devices, of which each gets the rows that it gave to `gathered`."""
    return lax.psum_scatter(y, sharding.divided("experts"), scatter_dimension=0, tiled=True)


def own(weights_MA: Array, ids_MA: Array, E: int) -> tuple[Array, Array]:
    """Weights and ids of the choices that fell on this device's E experts, which become 0 to E - 1; other ids become E.

    Of a token's A choices, all different, at most E are of them: only so many are kept.
    """
    ids_MA = ids_MA - E * lax.axis_index(sharding.divided("experts"))
    ids_MA = jnp.where((ids_MA >= 0) & (ids_MA < E), ids_MA, E)
    if ids_MA.shape[1] <= E:
        return weights_MA, ids_MA
    negative_ME, place_ME = lax.top_k(-ids_MA, E)
    kept = place_ME[..., None] == jnp.arange(ids_MA.shape[1])[None, None]
    return jnp.where(kept, weights_MA[:, None], 0).sum(-1), -negative_ME


def whole_width(w: Array, names: Sequence[str | None]) -> Array:
    """A weight of experts, with these logical axes, whole over the model's width."""
    width = sharding.divided("expert_embed")
    if not width or "expert_embed" not in names:
        return w
    return lax.all_gather(w, width, axis=names.index("expert_embed"), tiled=True)


def into_stream(y_btD: Array, T: int) -> Array:
    """The sum of what devices computed by their parts of the hidden width, laid out as a stream of T positions is."""
    if parts := sharding.divided("mlp"):
        scatter = sharding.stream(T)[1] == "seq"
        y_btD = lax.psum_scatter(y_btD, parts, scatter_dimension=1, tiled=True) if scatter else lax.psum(y_btD, parts)
    if sharding.rows(T)[1] is None and (same := sharding.divided("positions")):
        y_btD = lax.pmean(y_btD, same)  # on all the same, which their gathered weights do not tell
    return y_btD
