"""Looking rows up in a table that may be divided over devices."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxlm import sharding
from jaxlm.axes import Array


def lookup(table_VD: Array, ids_BT: Array, dtype) -> Array:
    """Rows of `table_VD` at `ids_BT`, cast to `dtype`: (B, T, D) in the layout of the residual stream.

    On a mesh every device gathers its own vocabulary rows and the partial results are summed; left to the compiler,
    a gather from a divided table replicates the batch (auto axes) or moves the whole table.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return table_VD.astype(dtype)[ids_BT]
    out = sharding.stream(ids_BT.shape[1])
    scatter = out[1] == "seq" and sharding.mesh_size("vocab") > 1
    rows, vocab = sharding.rows(ids_BT.shape[1])[:2], sharding.RULES["vocab"]
    # Of devices with the same positions but other parts of the width one looks up, and all have the sum.
    same = sharding.divided("positions") if rows[1] is None else ()

    def local(table_vd, ids_BT):
        table_vD = table_vd.astype(dtype)
        if width := sharding.divided("embed"):
            table_vD = lax.all_gather(table_vD, width, axis=1, tiled=True)
        V = table_vD.shape[0]
        row_BT = ids_BT - lax.axis_index(vocab) * V
        mine_BT = (row_BT >= 0) & (row_BT < V)
        if same:
            mine_BT &= lax.axis_index(same) == 0
        x_BTD = jnp.where(mine_BT[..., None], table_vD[jnp.clip(row_BT, 0, V - 1)], 0)
        if scatter:
            return lax.psum_scatter(x_BTD, vocab, scatter_dimension=1, tiled=True)
        return lax.psum(x_BTD, vocab + same)

    return sharding.per_device(local, [("vocab", "embed"), rows], out, table_VD, ids_BT)


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
