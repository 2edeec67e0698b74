"""Dispatch of tokens to their experts, and the way back.

M tokens of one device have A choices each, which are P = M A pairs. The pairs are sorted by expert into rows, N blocks
of Q slots, so that all rows of a block belong to one expert: `dropless` pads every expert's rows to whole blocks,
`capped` gives every expert one block and drops what does not fit. Rows move by gathers in both directions of
differentiation, and a block is multiplied by its expert's matrices alone: `grouped_matmul` takes all blocks through one
product, `by_blocks` every block through all products of its expert.
"""

import functools
from collections.abc import Callable
from typing import Any

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
    used: Array | None = None  # how many blocks have rows: the first ones


def block_size(pairs: int, E: int) -> int:
    """The largest power of two with which padding costs at most an eighth: E (Q - 1) <= pairs / 8."""
    return 1 << (pairs // E // 8 + 1).bit_length() - 1


def dropless(ids_MA: Array, E: int, of: int | None = None) -> Dispatch:
    """Every pair has a row; at most an eighth of the rows are empty.

    Where the E experts are some `of` more, ids from E on are others' and have no row. Blocks are then as many as all
    pairs may need, and it is the rows in the `used` ones of which at most an eighth are empty, if loads are even.
    """
    Q = block_size(ids_MA.size, of or E)
    N = (ids_MA.size + E * (Q - 1)) // Q
    order_P, first_E, count_E = _sorted(ids_MA, E)
    blocks_E = (count_E + Q - 1) // Q
    end_E = jnp.cumsum(blocks_E)
    # Blocks that nobody needs are the last expert's.
    expert_N = jnp.minimum(jnp.sum(end_E[:, None] <= jnp.arange(N)[None], 0), E - 1)
    places = _places(ids_MA, order_P, first_E, count_E, Q, Q * (end_E - blocks_E), expert_N)
    return Dispatch(*places, expert_N, end_E[-1])


def capped(ids_MA: Array, E: int, Q: int) -> Dispatch:
    """Every expert takes the first Q tokens that chose it, whether it was their first choice or another: so whether a
    token is dropped does not depend on later ones."""
    order_P, first_E, count_E = _sorted(ids_MA, E)
    each_E = jnp.arange(E)
    return Dispatch(*_places(ids_MA, order_P, first_E, jnp.minimum(count_E, Q), Q, Q * each_E, each_E), None)


def _sorted(ids_MA, E):
    """Pairs by expert and, within one, by token; where each expert's begin among them, and how many they are."""
    ids_P = ids_MA.reshape(-1)
    order_P = jnp.argsort(ids_P)
    edges = jnp.sum(ids_P[:, None] < jnp.arange(E + 1)[None], 0)  # a searchsorted is a loop of tiny steps
    return order_P, edges[:-1], edges[1:] - edges[:-1]


def _places(ids_MA, order_P, first_E, count_E, Q, start_E, expert_N) -> tuple[Array, Array]:
    """pair_NQ and row_MA where the first `count` pairs of every expert have rows from `start` on. By gathers, since
    scatters are slow."""
    P, R = ids_MA.size, Q * len(expert_N)
    slot_NQ = jnp.arange(R).reshape(-1, Q) - start_E[expert_N][:, None]
    pair_NQ = order_P.at[first_E[expert_N][:, None] + slot_NQ].get(mode="clip")
    pair_NQ = jnp.where(slot_NQ < count_E[expert_N][:, None], pair_NQ, P)
    of_MA = jnp.minimum(ids_MA, len(count_E) - 1)
    slot_MA = jnp.argsort(order_P).reshape(ids_MA.shape) - first_E[of_MA]
    fits_MA = (of_MA == ids_MA) & (slot_MA < count_E[of_MA])
    row_MA = jnp.where(fits_MA, start_E[of_MA] + slot_MA, R)
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


def _rows(x_MD: Array, source: Array) -> Array:
    """Rows x[source], zeros beyond the end."""
    return jnp.take(x_MD, source, axis=0, mode="fill", fill_value=0)


@jax.custom_vjp
def _take(x_MD, source, sinks_MA):
    """Rows x[source]. `sinks_MA` are the places in the result that row m went to, so that the gradient is a gather and
    a sum over A instead of a scatter."""
    return _rows(x_MD, source)


def _take_forward(x_MD, source, sinks_MA):
    return _take(x_MD, source, sinks_MA), sinks_MA


def _take_backward(sinks_MA, dy):
    return _rows(dy.reshape(-1, dy.shape[-1]), sinks_MA).sum(1), None, None


_take.defvjp(_take_forward, _take_backward)


def grouped_matmul(x_NQD: Array, w_EDF: Array, expert_N: Array | None) -> Array:
    """Every block of rows times its expert's matrix: y_n = x_n w[expert_n], (N, Q, F); float32 sums.

    Costs 2 N Q D F whatever E is. Blocks are taken one after the other, and the gradient of w is added up in place.
    """
    if expert_N is None:
        return jnp.einsum("nqd,ndf->nqf", x_NQD, w_EDF, preferred_element_type=x_NQD.dtype)
    return _blocks(x_NQD, w_EDF, expert_N)


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


Expert = Callable[[Any, Array, Array], Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def by_blocks(f: Expert, w_E: Any, x_MD: Array, weights_MA: Array, d: Dispatch) -> Array:
    """The sum y_MD of every token's experts, where f(w, x_1QD, weights_1Q1) -> y_1QD is one block through its expert,
    and w the slice (1, ...) of every leaf of `w_E` that is the expert's.

    Takes the `used` blocks of `d` one after the other: work follows what there is, not what there could be, and what
    lies between an expert's products is of one block. Holds N Q D of rows; its gradient does every block again.
    """

    def one(n, y_NQD):
        return _put(y_NQD, f(*_block(n, w_E, x_MD, weights_MA, d)), n)

    y_NQD = lax.fori_loop(0, d.used, one, _empty(x_MD, d))
    return _rows(y_NQD.reshape(-1, y_NQD.shape[-1]), d.row_MA).sum(1)


def _by_blocks_forward(f, *args):
    return by_blocks(f, *args), args


def _by_blocks_backward(f, args, dy_MD):
    w_E, x_MD, weights_MA, d = args

    def one(n, sums):
        dw_E, *drows = sums
        dw, *parts = jax.vjp(f, *_block(n, *args))[1](_rows(dy_MD, _tokens(n, d)))
        add = lambda dw_E, dw: _put(dw_E, _slice(dw_E, d.expert_N[n]) + dw, d.expert_N[n])
        return jax.tree.map(add, dw_E, dw), *(_put(rows, part, n) for rows, part in zip(drows, parts))

    dw_E = jax.tree.map(lambda w: jnp.zeros_like(w, jnp.float32), w_E)
    weights_P1 = weights_MA.reshape(-1, 1)
    dw_E, dx_NQD, dweights_NQ1 = lax.fori_loop(0, d.used, one, (dw_E, _empty(x_MD, d), _empty(weights_P1, d)))
    dx_MAD, dweights_MA1 = (_rows(rows.reshape(-1, rows.shape[-1]), d.row_MA) for rows in (dx_NQD, dweights_NQ1))
    return jax.tree.map(lambda dw, w: dw.astype(w.dtype), dw_E, w_E), dx_MAD.sum(1), dweights_MA1[..., 0], None


by_blocks.defvjp(_by_blocks_forward, _by_blocks_backward)


def _block(n, w_E, x_MD, weights_MA, d):
    """What f is given for block n."""
    w = jax.tree.map(lambda w: _slice(w, d.expert_N[n]), w_E)
    return w, _rows(x_MD, _tokens(n, d)), _rows(weights_MA.reshape(-1, 1), _slice(d.pair_NQ, n))


def _tokens(n, d):
    return _slice(d.pair_NQ, n) // d.row_MA.shape[1]


def _slice(x, n):
    return lax.dynamic_slice_in_dim(x, n, 1)


def _put(x, part, n):
    return lax.dynamic_update_slice_in_dim(x, part, n, 0)  # in place


def _empty(x_MD, d):
    return jnp.zeros_like(x_MD, shape=(*d.pair_NQ.shape, x_MD.shape[-1]))
