"""Embedding lookup, in a table that may be divided over devices."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxlm import sharding
from jaxlm.axes import Array


def lookup(table_VD: Array, ids_BT: Array, dtype) -> Array:
    """Rows of `table_VD` at `ids_BT`, cast to `dtype`: (B, T, D) in the layout of the residual stream.

    On a mesh every device gathers its own vocabulary rows and the partial results are summed; left to the compiler,
    a gather from a divided table replicates the batch (auto axes) or moves the whole table. Where the width is divided
    too, a device either gathers its vocabulary rows whole, or looks up its part of the width for all devices that share
    the table and they exchange what they found, all to all: see `exchanges_rows`. The gradient goes the same way back.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return table_VD.astype(dtype)[ids_BT]
    out = sharding.stream(ids_BT.shape[1])
    scatter = out[1] == "seq" and sharding.mesh_size("vocab") > 1
    rows, vocab = sharding.rows(ids_BT.shape[1])[:2], sharding.RULES["vocab"]
    # Of devices with the same positions but other parts of the width one looks up, and all have the sum.
    same = sharding.divided("positions") if rows[1] is None else ()
    width = sharding.divided("embed")
    exchange = bool(width) and not same and exchanges_rows(ids_BT.size, len(table_VD), rows)

    def found(table_vD, ids):
        V = table_vD.shape[0]
        row = ids - lax.axis_index(vocab) * V
        mine = (row >= 0) & (row < V)
        if same:
            mine &= lax.axis_index(same) == 0
        return jnp.where(mine[..., None], table_vD[jnp.clip(row, 0, V - 1)], 0)

    def local(table_vd, ids_BT):
        table_vd = table_vd.astype(dtype)
        if exchange:
            ids_N = lax.all_gather(ids_BT.reshape(-1), width, tiled=True)
            x_Nd = found(table_vd, ids_N)
            x_BTD = lax.all_to_all(x_Nd, width, split_axis=0, concat_axis=1, tiled=True).reshape(*ids_BT.shape, -1)
        else:
            x_BTD = found(lax.all_gather(table_vd, width, axis=1, tiled=True) if width else table_vd, ids_BT)
        if scatter:
            return lax.psum_scatter(x_BTD, vocab, scatter_dimension=1, tiled=True)
        return lax.psum(x_BTD, vocab + same)

    return sharding.shard_map(local, [("vocab", "embed"), rows], out, table_VD, ids_BT)


def exchanges_rows(tokens: int, V: int, rows: tuple[str | None, ...]) -> bool:
    """Whether the looked-up rows are sent instead of the table: where a device of the current mesh has fewer of the
    `tokens`, which `rows` divides, than of the V rows. Either way a device sends that many rows of the whole width."""
    return tokens * sharding.mesh_size("vocab") < V * math.prod(map(sharding.mesh_size, rows))


def one_hot_lookup(table_VD: Array, ids_BT: Array, dtype) -> Array:
    """`lookup` as a product of matrices: the one-hot rows of `ids_BT` times `table_VD`, (B, T, D) in `dtype`.

    x_btd = sum_v [ids_bt = v] table_vd. It is what a lookup means, and why its gradient adds into the rows looked up;
    it costs V times the work, and the one-hot array (B, T, V). An id outside the table has no one and gives zeros.
    """
    V = table_VD.shape[0]
    one_BTV = (ids_BT[..., None] == jnp.arange(V)[None, None]).astype(dtype)
    one_BTV = sharding.constrain(one_BTV, *sharding.rows(ids_BT.shape[1])[:2], "vocab")
    # Of float32 accelerators would multiply a part of the bits.
    with jax.default_matmul_precision("float32"):
        return sharding.einsum("btv,vd->btd", one_BTV, table_VD.astype(dtype), out=sharding.stream(ids_BT.shape[1]))
