"""Exact attention of a piece of queries to a piece of keys, block by block: what `blockwise` and `ring` are made of.

A piece may stand anywhere in its row. The forward pass gives the result over the keys of this piece and the logarithm
of its sum of exponentials, so that results over several pieces of keys can be merged; the backward pass recomputes the
probabilities from that of all keys (Dao et al. 2022, arXiv:2205.14135): with P = exp(S - lse) and delta = sum(dO * O),
dV = P^T dO, dS = P * (dO V^T - delta), dQ = dS K, dK = dS^T Q.

What else an attention may have stays within a block. The slope of a capped score multiplies dS. A bias by distance is
cut from its table, and its gradient is the sum of dS along diagonals. A sink is a key that has a score and no value:
it joins the log-sum-exp, and its gradient is -exp(sink - lse) * delta. A mask M of dropout is drawn again in the
backward pass: O = (M P) V, so dV = (M P)^T dO, dS = P * (M dO V^T - delta).

Scores stand keys first, S^T (L, Q) with the R queries of a group side by side in Q = R C: so no product, forward or
backward, has to turn a block of scores round. Measured on CPU, about a seventh less time than queries first.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxlm.axes import Array
from jaxlm.ops import toeplitz
from jaxlm.ops.blockwise_bands import Band
from jaxlm.ops.dropout import kept_pairs
from jaxlm.ops.rule import MASKED, Extras, Rule, score


class Piece(NamedTuple):
    """What stands beside consecutive tokens of a row, and the place in the row of the first one."""

    extras: Extras  # those of the queries also hold what belongs to no token
    at: Any = 0


class How(NamedTuple):
    """What is known when tracing: the options, the queries of a block, and which keys each block of queries meets."""

    rule: Rule
    C: int
    bands: list[Band]


def queries_first(x_BTHK: Array, G: int) -> Array:
    """(B, T, H, K) to (B, G, R, T, K)."""
    B, T, H, K = x_BTHK.shape
    return x_BTHK.reshape(B, T, G, H // G, K).transpose(0, 2, 3, 1, 4)


def positions_first(x_BGKRT: Array) -> Array:
    """(B, G, K, R, T) to (B, T, H, K)."""
    B, G, K, R, T = x_BGKRT.shape
    return x_BGKRT.transpose(0, 4, 1, 3, 2).reshape(B, T, G * R, K)


def forward(
    q_BGRTK: Array, k_BGSK: Array, v_BGSJ: Array, queries: Piece, keys: Piece, how: How, dtype: Any
) -> tuple[Array, Array]:
    """The result (B, G, J, R, T) in `dtype`, and its log-sum-exp (B, G, R, T)."""
    C, sinks_H, S = how.C, queries.extras.sinks_H, k_BGSK.shape[2]
    queries, keys, *constants = _tied(q_BGRTK, queries, keys)
    G, R = q_BGRTK.shape[1:3]
    v_BGJS = jnp.swapaxes(v_BGSJ, 2, 3)

    def attend(L, _, start, key_start):
        k_BGLK = lax.dynamic_slice_in_dim(k_BGSK, key_start, L, 2)
        v_BGJL = lax.dynamic_slice_in_dim(v_BGJS, key_start, L, 3)
        block = _Block(queries, keys, constants, how, start, key_start, L)
        s_BGLQ, _ = block.scores(_cut_queries(q_BGRTK, start, C), k_BGLK)
        m = jnp.max(s_BGLQ, -2, keepdims=True)
        if sinks_H is not None:
            sink_1G1RC = jnp.broadcast_to(sinks_H.reshape(G, R)[None, :, None, :, None], (1, G, 1, R, C))
            sink_1G1Q = sink_1G1RC.reshape(1, G, 1, -1)
            m = jnp.maximum(m, sink_1G1Q)
        p_BGLQ = jnp.exp(s_BGLQ - m)
        total = jnp.sum(p_BGLQ, -2, keepdims=True)
        if sinks_H is not None:
            total += jnp.exp(sink_1G1Q - m)
        drop = block.dropping(p_BGLQ)
        o_BGJQ = jnp.einsum("bgjl,bglq->bgjq", v_BGJL, drop(p_BGLQ).astype(v_BGJL.dtype)) / total
        return None, (o_BGJQ.astype(dtype), (m + jnp.log(total))[..., 0, :])

    outs = [_over_blocks(band, S, C, None, functools.partial(attend, band.keys))[1] for band in how.bands]
    return _merge([o for o, _ in outs], C), _merge([lse for _, lse in outs], C)


def delta(o_BTHJ: Array, do_BTHJ: Array) -> Array:
    """The sum of dO * O of every query, (B, T, H, 1) in float32."""
    return jnp.sum(do_BTHJ.astype(jnp.float32) * o_BTHJ.astype(jnp.float32), -1, keepdims=True)


class Gradients(NamedTuple):
    """Sums in float32 that the backward passes of all pieces are added to."""

    dk_BGSK: Array
    dv_BGSJ: Array
    dbias_BGRZ: Array | None  # each row sums its own: over the rows, which may lie on many devices, only at the end


def no_gradients(k_BGSK: Array, v_BGSJ: Array, lse_BGRT: Array, extras: Extras) -> Gradients:
    """Where they start."""
    dbias = None
    if extras.bias_HZ is not None:
        zero_BGR1 = jnp.zeros_like(lse_BGRT[..., :1])
        dbias = jnp.broadcast_to(zero_BGR1, (*zero_BGR1.shape[:3], extras.bias_HZ.shape[1]))
    return Gradients(jnp.zeros_like(k_BGSK, jnp.float32), jnp.zeros_like(v_BGSJ, jnp.float32), dbias)


def backward(
    q_BGRTK: Array,
    k_BGSK: Array,
    v_BGSJ: Array,
    do_BGRTJ: Array,
    lse_BGRT: Array,
    delta_BGRT: Array,
    queries: Piece,
    keys: Piece,
    how: How,
    sums: Gradients,
) -> tuple[Array, Gradients]:
    """The gradient of the queries (B, G, K, R, T), and `sums` with those of the keys, values and biases added.

    `lse_BGRT` and `delta_BGRT`, the sum of dO * O, are those over all keys.
    """
    C, S = how.C, k_BGSK.shape[2]
    queries, keys, *constants = _tied(q_BGRTK, queries, keys)
    k_BGKS = jnp.swapaxes(k_BGSK, 2, 3)

    def attend(L, sums, start, key_start):
        q_BGQK, do_BGQJ = _cut_queries(q_BGRTK, start, C), _cut_queries(do_BGRTJ, start, C)
        k_BGLK, v_BGLJ = (lax.dynamic_slice_in_dim(x, key_start, L, 2) for x in (k_BGSK, v_BGSJ))
        k_BGKL = lax.dynamic_slice_in_dim(k_BGKS, key_start, L, 3)
        lse_BG1Q, delta_BG1Q = (_cut_queries(x[..., None], start, C).swapaxes(2, 3) for x in (lse_BGRT, delta_BGRT))
        block = _Block(queries, keys, constants, how, start, key_start, L)
        s_BGLQ, pull = block.scores(q_BGQK, k_BGLK)
        p_BGLQ = jnp.exp(s_BGLQ - lse_BG1Q)
        drop = block.dropping(p_BGLQ)
        dp_BGLQ = drop(jnp.einsum("bglj,bgqj->bglq", v_BGLJ, do_BGQJ, preferred_element_type=jnp.float32))
        ds_BGLQ = p_BGLQ * (dp_BGLQ - delta_BG1Q)
        dproducts, p_BGLQ = pull(ds_BGLQ).astype(q_BGQK.dtype), drop(p_BGLQ).astype(do_BGQJ.dtype)
        dk_BGLK = jnp.einsum("bglq,bgqk->bglk", dproducts, q_BGQK, preferred_element_type=jnp.float32)
        dv_BGLJ = jnp.einsum("bglq,bgqj->bglj", p_BGLQ, do_BGQJ, preferred_element_type=jnp.float32)
        dbias_BGRZ = sums.dbias_BGRZ
        if dbias_BGRZ is not None:
            ds_BGRLC = jnp.moveaxis(ds_BGLQ.reshape(*ds_BGLQ.shape[:3], -1, C), 3, 2)
            dbias_BGRZ = _add(dbias_BGRZ, toeplitz.diagonal_sums(ds_BGRLC), block.line, 3)
        sums = Gradients(
            _add(sums.dk_BGSK, dk_BGLK, key_start, 2), _add(sums.dv_BGSJ, dv_BGLJ, key_start, 2), dbias_BGRZ
        )
        return sums, jnp.einsum("bgkl,bglq->bgkq", k_BGKL, dproducts)

    dqs = []
    for band in how.bands:
        sums, dq = _over_blocks(band, S, C, sums, functools.partial(attend, band.keys))
        dqs.append(dq)
    return _merge(dqs, C), sums


def extras_gradients(extras: Extras, sums: Gradients, lse_BGRT: Array, delta_BGRT: Array) -> Extras:
    """Those of what is not q, k or v, over all keys."""
    dbias_HZ = dsinks_H = None
    if sums.dbias_BGRZ is not None:
        dbias_HZ = sums.dbias_BGRZ.sum(0).reshape(-1, sums.dbias_BGRZ.shape[-1])
    if extras.sinks_H is not None:
        share_BGRT = jnp.exp(extras.sinks_H.reshape(lse_BGRT.shape[1:3])[None, :, :, None] - lse_BGRT)
        dsinks_H = -jnp.sum(share_BGRT * delta_BGRT, (0, 3)).reshape(-1)
    return Extras(bias_HZ=dbias_HZ, sinks_H=dsinks_H)


class _Block(NamedTuple):
    """The queries of a piece from `start` on, and L of its keys from `key_start` on."""

    queries: Piece
    keys: Piece
    constants: Any  # 0 and MASKED
    how: How
    start: Any
    key_start: Any
    L: int

    @property
    def places(self) -> tuple[Array, Array]:
        """In the row, of queries and of keys."""
        zero = self.constants[0]
        return (
            zero + self.queries.at + self.start + jnp.arange(self.how.C),
            zero + self.keys.at + self.key_start + jnp.arange(self.L),
        )

    @property
    def line(self) -> Any:
        """Where the biases begin in their table (H, 2 T - 1): at the first query and the last key."""
        bias_HZ = self.queries.extras.bias_HZ
        assert bias_HZ is not None
        T = (bias_HZ.shape[-1] + 1) // 2
        return self.queries.at + self.start - self.keys.at - self.key_start + T - self.L

    def scores(self, q_BGQK: Array, k_BGLK: Array) -> tuple[Array, Any]:
        """Masked scores (B, G, L, Q) in float32, and the function that takes a gradient of scores to one of products
        q.k."""
        rule, extras, C, L = self.how.rule, self.queries.extras, self.how.C, self.L
        products = jnp.einsum("bglk,bgqk->bglq", k_BGLK, q_BGQK, preferred_element_type=jnp.float32)
        s_BGLQ, pull = jax.vjp(lambda u: score(u, rule.scale, rule.softcap), products)
        s_BGLRC = s_BGLQ.reshape(*s_BGLQ.shape[:3], -1, C)
        if extras.bias_HZ is not None:
            bias_GRZ = extras.bias_HZ.reshape(k_BGLK.shape[1], -1, extras.bias_HZ.shape[-1])
            line_GRX = lax.dynamic_slice_in_dim(bias_GRZ, self.line, L + C - 1, 2)
            s_BGLRC += jnp.moveaxis(toeplitz.matrix(line_GRX, L, C), 2, 1)[None]
        query_C, key_L = self.places
        part = lambda piece, at, n: Extras(*(cut(x, at, n, 1) for x in piece.extras[:2]))
        of_queries, of_keys = part(self.queries, self.start, C), part(self.keys, self.key_start, L)
        mask_BCL = rule.visible(query_C[None], key_L[None], of_queries, of_keys)
        s_BGLRC = jnp.where(mask_BCL.swapaxes(1, 2)[:, None, :, None], s_BGLRC, self.constants[1])
        return s_BGLRC.reshape(s_BGLQ.shape), lambda ds_BGLQ: pull(ds_BGLQ)[0]

    def dropping(self, like_BGLQ: Array) -> Any:
        """The function that puts dropout's mask on the probabilities of the block, or on their gradient."""
        rate, extras = self.how.rule.dropout, self.queries.extras
        if not rate:
            return lambda p_BGLQ: p_BGLQ
        assert extras.key is not None and extras.numbers_BH is not None, "dropout needs a key and numbers"
        B, G, L, Q = like_BGLQ.shape
        kept_BHLC = kept_pairs(rate, extras.key, extras.numbers_BH, *self.places)
        kept_BGLQ = jnp.moveaxis(kept_BHLC.reshape(B, G, -1, L, self.how.C), 2, 3).reshape(B, G, L, Q)
        return lambda p_BGLQ: jnp.where(kept_BGLQ, p_BGLQ / (1 - rate), 0)


def _tied(q: Array, queries: Piece, keys: Piece) -> Any:
    """The pieces and the constants 0 and MASKED, as if they depended on q.

    Masks and biases are made of them. JAX moves what depends on no layer out of the loop over layers, for all blocks at
    once: else it would hold the masks of all T x S pairs, for every row and head.
    """
    given = queries.extras, keys.extras, jnp.int32(0), jnp.float32(MASKED), q
    of_queries, of_keys, zero, masked, _ = lax.optimization_barrier(given)
    return Piece(of_queries, queries.at), Piece(of_keys, keys.at), zero, masked


def cut(x: Array | None, start: Any, n: int, axis: int) -> Any:
    """n of `x` from `start` on, None of None."""
    return None if x is None else lax.dynamic_slice_in_dim(x, start, n, axis)


def _cut_queries(x_BGRTK, start, C):
    """One block of queries, those of all R heads of a group on one axis: (B, G, Q = R C, K)."""
    x_BGRCK = lax.dynamic_slice_in_dim(x_BGRTK, start, C, 3)
    return x_BGRCK.reshape(*x_BGRCK.shape[:2], -1, x_BGRCK.shape[-1])


def _add(total, part, start, axis):
    """`total` with `part` added to it from `start` on."""
    old = lax.dynamic_slice_in_dim(total, start, part.shape[axis], axis)
    return lax.dynamic_update_slice_in_dim(total, old + part, start, axis)


def _over_blocks(band: Band, S: int, C: int, carry, body):
    """`carry, out = body(carry, start, key_start)` for every block of a band; outs stacked on a new first axis."""
    step = lambda carry, i: body(carry, i * C, band.key_start(i * C, S, C))
    if band.last - band.first == 1:  # static slices: no copy, no loop
        carry, out = step(carry, band.first)
        return carry, jax.tree.map(lambda x: x[None], out)
    return lax.scan(step, carry, jnp.arange(band.first, band.last))


def _merge(parts, C):
    """Stacked blocks of the bands, joined along the positions: n x (..., Q = R C) to (..., R, T)."""
    whole = parts[0] if len(parts) == 1 else jnp.concatenate(parts, 0)
    whole = jnp.moveaxis(whole.reshape(*whole.shape[:-1], -1, C), 0, -2)
    return whole.reshape(*whole.shape[:-2], -1)
