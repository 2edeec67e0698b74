"""Bringing tokens to their experts and back.

M tokens of one device have A choices each, which are P = M A pairs. The pairs are sorted by expert into rows, N blocks
of Q slots, so that all rows of a block belong to one expert: `dropless` pads every expert's rows to whole blocks,
`capped` gives every expert one block and drops what does not fit. Rows move by gathers in both directions of
differentiation, and a block is multiplied by its expert's matrix alone.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from jaxlm.axes import Array


@struct.dataclass
class Dispatch:
    """Where everything goes. Empty slots and dropped pairs have an index one past the end."""

    pair_NQ: Array  # the pair in a slot
    row_MA: Array  # the row (slot of all blocks) of a pair
    expert_N: Array | None  # whose a block is; None: block n is expert n's


def block_size(pairs: int, E: int) -> int:
    """The largest power of two with which padding costs at most an eighth: E (Q - 1) <= pairs / 8."""
    return 1 << (pairs // E // 8 + 1).bit_length() - 1


def dropless(ids_MA: Array, E: int) -> Dispatch:
    """Every pair has a row; at most an eighth of the rows are empty."""
    Q = block_size(ids_MA.size, E)
    N = (ids_MA.size + E * (Q - 1)) // Q
    order_P, first_E, count_E = _sorted(ids_MA, E)
    blocks_E = (count_E + Q - 1) // Q
    end_E = jnp.cumsum(blocks_E)
    # Blocks that nobody needs are the last expert's.
    expert_N = jnp.minimum(_search(end_E, jnp.arange(N), "right"), E - 1)
    return Dispatch(*_places(ids_MA, order_P, first_E, count_E, Q, Q * (end_E - blocks_E), expert_N), expert_N)


def capped(ids_MA: Array, E: int, Q: int) -> Dispatch:
    """Every expert takes the first Q tokens that chose it, whether it was their first choice or another: so whether a
    token is dropped does not depend on later ones."""
    order_P, first_E, count_E = _sorted(ids_MA, E)
    each_E = jnp.arange(E)
    return Dispatch(*_places(ids_MA, order_P, first_E, jnp.minimum(count_E, Q), Q, Q * each_E, each_E), None)


_search = functools.partial(jnp.searchsorted, method="compare_all")  # the others are loops of tiny steps


def _sorted(ids_MA, E):
    """Pairs by expert and, within one, by token; where each expert's begin among them, and how many they are."""
    ids_P = ids_MA.reshape(-1)
    order_P = jnp.argsort(ids_P)
    edges = _search(ids_P[order_P], jnp.arange(E + 1))
    return order_P, edges[:-1], edges[1:] - edges[:-1]


def _places(ids_MA, order_P, first_E, count_E, Q, start_E, expert_N) -> tuple[Array, Array]:
    """pair_NQ and row_MA where the first `count` pairs of every expert have rows from `start` on. By gathers, since
    scatters are slow."""
    P, R = ids_MA.size, Q * len(expert_N)
    slot_NQ = jnp.arange(R).reshape(-1, Q) - start_E[expert_N][:, None]
    pair_NQ = order_P.at[first_E[expert_N][:, None] + slot_NQ].get(mode="clip")
    pair_NQ = jnp.where(slot_NQ < count_E[expert_N][:, None], pair_NQ, P)
    slot_MA = jnp.argsort(order_P).reshape(ids_MA.shape) - first_E[ids_MA]
    row_MA = jnp.where(slot_MA < count_E[ids_MA], start_E[ids_MA] + slot_MA, R)
    return pair_NQ, row_MA


def send(x_MD: Array, d: Dispatch) -> Array:
    """The tokens in rows, (N, Q, D); zeros in empty slots."""
    return _take(x_MD, d.pair_NQ // d.row_MA.shape[1], d.row_MA)


def weigh(rows_NQD: Array, weights_MA: Array, d: Dispatch) -> Array:
    """Every row times the weight of its pair."""
    return rows_NQD * _take(weights_MA.reshape(-1, 1), d.pair_NQ, d.row_MA.reshape(-1, 1)).astype(rows_NQD.dtype)


def collect(rows_NQD: Array, d: Dispatch) -> Array:
    """The rows of every token's pairs, (M, A, D); zeros for dropped ones."""
    N, Q, D = rows_NQD.shape
    return _take(rows_NQD.reshape(N * Q, D), d.row_MA, d.pair_NQ.reshape(-1, 1))


@jax.custom_vjp
def _take(x_MD, source, sinks_MA):
    """Rows x[source], zeros beyond the end. `sinks_MA` are the places in the result that row m went to, so that the
    gradient is a gather and a sum over A instead of a scatter."""
    return jnp.take(x_MD, source, axis=0, mode="fill", fill_value=0)


def _take_forward(x_MD, source, sinks_MA):
    return _take(x_MD, source, sinks_MA), sinks_MA


def _take_backward(sinks_MA, dy):
    dy_MAD = jnp.take(dy.reshape(-1, dy.shape[-1]), sinks_MA, axis=0, mode="fill", fill_value=0)
    return dy_MAD.sum(1), None, None


_take.defvjp(_take_forward, _take_backward)


def grouped_matmul(x_NQD: Array, w_EDF: Array, expert_N: Array | None) -> Array:
    """Every block of rows times its expert's matrix: y_n = x_n w[expert_n], (N, Q, F); float32 sums.

    Costs 2 N Q D F whatever E is. Blocks are taken one after the other, and the gradient of w is added up in place.
    """
    if expert_N is None:
        return jnp.einsum("nqd,ndf->nqf", x_NQD, w_EDF, preferred_element_type=x_NQD.dtype)
    # Inside shard_map both must vary over the same devices, so that it is known over which to add up their gradients.
    zero_x, zero_w = jnp.zeros_like(x_NQD[0, 0, 0]), jnp.zeros_like(w_EDF[0, 0, 0])
    return _blocks(x_NQD + zero_w, w_EDF + zero_x, expert_N)


def _product(a: Array, b: Array, i: int, j: int, dtype) -> Array:
    """Two matrices multiplied over dimension i of one and j of the other."""
    return lax.dot_general(a, b, (((i,), (j,)), ((), ())), preferred_element_type=dtype)


@jax.custom_vjp
def _blocks(x_NQD, w_EDF, expert_N):
    def one(block):
        x_QD, e = block
        return _product(x_QD, w_EDF[e], 1, 0, x_NQD.dtype)

    return lax.map(one, (x_NQD, expert_N))


def _blocks_forward(x_NQD, w_EDF, expert_N):
    return _blocks(x_NQD, w_EDF, expert_N), (x_NQD, w_EDF, expert_N)


def _blocks_backward(saved, dy_NQF):
    x_NQD, w_EDF, expert_N = saved

    def one(dw_EDF, block):
        x_QD, dy_QF, e = block
        dw_DF = dw_EDF[e] + _product(x_QD, dy_QF, 0, 0, jnp.float32)
        dw_EDF = lax.dynamic_update_index_in_dim(dw_EDF, dw_DF, e, 0)  # in place
        return dw_EDF, _product(dy_QF, w_EDF[e], 1, 1, x_QD.dtype)

    start = jnp.zeros_like(w_EDF, jnp.float32)
    dw_EDF, dx_NQD = lax.scan(one, start, (x_NQD, dy_NQF, expert_N))
    return dx_NQD, dw_EDF.astype(w_EDF.dtype), None


_blocks.defvjp(_blocks_forward, _blocks_backward)
