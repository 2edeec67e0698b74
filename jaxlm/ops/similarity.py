"""Cosine similarity, nearest neighbours and analogies of embeddings: which rows of a table point as a vector does, and
what is to one word as another is to a third.

Computed in float32 whatever the inputs' dtype, without the shortcuts that accelerators take in products of float32.
"""

import functools
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from jaxlm.axes import Array
from jaxlm.errors import UserError

EXACT = jax.lax.Precision.HIGHEST
ROUNDING = 2.0**-22  # by which cosines of equal vectors may differ


def cosine_similarity(x: Any, y: Any) -> Array:
    """cos(x, y) = x . y / (|x| |y|) over the last axis; the others broadcast.

    With a zero vector it is 0, and so is its gradient for that vector. Raises UserError for vectors of two widths.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.ndim == 0 or y.ndim == 0 or x.shape[-1] != y.shape[-1]:
        raise UserError(f"vectors of shapes {x.shape} and {y.shape} have no angle: their last axes must be equal")
    return jnp.einsum("...d,...d->...", _unit(x), _unit(y), precision=EXACT)


def nearest_neighbours(table_VD: Any, queries: Any, k: int, exclude: Any = None) -> tuple[Array, Array]:
    """The k rows of `table_VD` nearest to each query (..., D): their cosines and ids (..., k), best first.

    Of cosines that are equal but for rounding the lower id comes first. `exclude` holds ids that are never among them,
    such as the queries' own: (X,) for all queries, or (..., X). Nothing larger is built than the cosines of every row
    with every query.

    Raises:
        UserError: fewer than k rows are left, an excluded id is no row, or shapes do not fit. Inside jit ids are
            unknown: each excluded one counts as one row less, and none is checked.
    """
    table_VD, queries = jnp.asarray(table_VD), jnp.asarray(queries)
    exclude = jnp.asarray(() if exclude is None else exclude, jnp.int32)
    V, D = table_VD.shape
    if queries.shape[-1:] != (D,):
        raise UserError(f"queries of shape {queries.shape} do not fit vectors of width {D}: give (..., {D})")
    if exclude.ndim == 0 or exclude.shape[:-1] not in ((), queries.shape[:-1]):
        raise UserError(f"ids to exclude of shape {exclude.shape} do not fit queries of shape {queries.shape}")
    left = V - _excluded(exclude, V)
    if not 1 <= k <= left:
        raise UserError(f"there are no k={k} neighbours: of {V} vectors {left} are left, so choose k from 1 to {left}")
    return _nearest(table_VD, queries, exclude, int(k))


def analogy(table_VD: Any, a: Any, b: Any, c: Any, k: int) -> tuple[Array, Array]:
    """a - b + c, as in king - man + woman: the k rows nearest to it but those three, as cosines and ids (..., k).

    `a`, `b` and `c` are ids of one shape (...). A row e is ranked by cos(e, a' - b' + c') where a' = a / |a|, which is
    the order of cos(e, a) - cos(e, b) + cos(e, c), 3CosAdd (Mikolov et al. 2013, arXiv:1301.3781; in this form Levy and
    Goldberg 2014, "Linguistic regularities in sparse and explicit word representations"). Errors as in
    `nearest_neighbours`.
    """
    ids = jnp.stack([jnp.asarray(i, jnp.int32) for i in (a, b, c)], -1)
    unit = _unit(jnp.asarray(table_VD)[ids])
    queries = unit[..., 0, :] - unit[..., 1, :] + unit[..., 2, :]
    return nearest_neighbours(table_VD, queries, k, exclude=ids)


def _excluded(exclude: Array, V: int) -> int:
    """How many rows they are for the query that has most of them excluded."""
    if isinstance(exclude, jax.core.Tracer) or exclude.size == 0:
        return exclude.shape[-1]
    ids = np.asarray(exclude)
    if ids.min() < 0 or ids.max() >= V:
        raise UserError(f"ids of the {V} vectors lie in 0..{V - 1}, got {ids.min()}..{ids.max()}")
    return max(len(np.unique(row)) for row in ids.reshape(-1, ids.shape[-1]))


@functools.partial(jax.jit, static_argnums=3)
def _nearest(table_VD: Array, queries: Array, exclude: Array, k: int) -> tuple[Array, Array]:
    *batch, D = queries.shape
    x_BD = _unit(queries.reshape(-1, D))
    exclude_BX = jnp.broadcast_to(exclude, (*batch, exclude.shape[-1])).reshape(len(x_BD), -1)
    # The lengths divide the products: dividing the table by them would be a copy of it.
    table_VD = table_VD.astype(jnp.float32)
    products_BV = jnp.einsum("bd,vd->bv", x_BD, table_VD, precision=EXACT)
    cosines_BV = _divided(products_BV, _length(table_VD).reshape(1, -1))
    cosines_BV = jnp.where(cosines_BV == 0, 0, cosines_BV)  # -0 would come after 0
    cosines_BV = cosines_BV.at[jnp.arange(len(x_BD))[:, None], exclude_BX].set(-jnp.inf)
    cosines_BA, ids_BA = jax.lax.top_k(cosines_BV, k)
    # Equal rows may have products that differ by rounding: it depends on where in a block of rows they stand.
    larger_BA = jnp.pad(cosines_BA[:, :-1] - cosines_BA[:, 1:] > ROUNDING, ((0, 0), (1, 0)))
    _, ids_BA = jax.lax.sort((jnp.cumsum(larger_BA, 1), ids_BA), num_keys=2)
    return cosines_BA.reshape(*batch, k), ids_BA.reshape(*batch, k)


def _unit(x: Array) -> Array:
    x = x.astype(jnp.float32)
    return _divided(x, _length(x))


def _length(x: Array) -> Array:
    """|x| over the last axis, which stays, as 1. No square in it over- or underflows. Its gradient at zero is zero."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), -1, keepdims=True))
    zero = largest < jnp.finfo(x.dtype).tiny
    largest = jnp.where(zero, 1, largest)
    squares = jnp.sum(jnp.square(x / largest), -1, keepdims=True)
    return jnp.where(zero, 0, largest * jnp.sqrt(jnp.where(zero, 1, squares)))


def _divided(x: Array, length: Array) -> Array:
    """x / length, and 0 where that is 0."""
    return jnp.where(length == 0, 0, x / jnp.where(length == 0, 1, length))
