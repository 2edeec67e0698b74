"""Blockwise exact attention with its own gradient: memory linear in the length, forward and backward.

Queries are taken in blocks of C; a block meets only the keys it may see (its causal prefix, or its window), so no
masked block is computed but the ragged edge. The backward pass recomputes the probabilities from the saved
log-sum-exp (Dao et al. 2022, arXiv:2205.14135): with P = exp(S - lse) and delta = sum(dO * O),
dV = P^T dO, dS = P * (dO V^T - delta), dQ = dS K, dK = dS^T Q.

What else an attention may have stays within a block. The slope of a capped score multiplies dS. A bias by distance is
cut from its table, and its gradient is the sum of dS along diagonals. A sink is a key that has a score and no value:
it joins the log-sum-exp, and its gradient is -exp(sink - lse) * delta. A mask M of dropout is drawn again in the
backward pass: O = (M P) V, so dV = (M P)^T dO, dS = P * (M dO V^T - delta).

Scores stand keys first, S^T (L, Q) with the R queries of a group side by side in Q = R C: so no product, forward or
backward, has to turn a block of scores round. Measured on CPU, about a seventh less time than queries first.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxlm.axes import Array
from jaxlm.ops import toeplitz
from jaxlm.ops.blockwise_bands import Band, bands
from jaxlm.ops.dropout import dropout
from jaxlm.ops.rule import MASKED, Extras, Rule, score

BLOCK = 128  # queries at a time: measured best of 64..512 on CPU


def blockwise_attention(
    q_BTHK: Array, k_BTGK: Array, v_BTGJ: Array, extras: Extras, rule: Rule, block: int = BLOCK
) -> Array:
    """Self-attention, exactly `attention.reference_attention`; returns (B, T, H, J). See `attention.attention`."""
    T = q_BTHK.shape[1]
    block = min(block, T)
    if pad := -T % block:
        q_BTHK, k_BTGK, v_BTGJ = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (q_BTHK, k_BTGK, v_BTGJ))
        extras = _pad(extras, pad, None if rule.causal else jnp.zeros_like(q_BTHK[:, :T, 0, 0], jnp.int32))
    o_BTHJ: Any = _attend(q_BTHK, k_BTGK, v_BTGJ, extras, (rule, block))
    return o_BTHJ[:, :T]


def _pad(extras: Extras, pad: int, segments_BT: Array | None) -> Extras:
    """Padding stands last and in a segment of its own, so no real query sees it."""
    at_end = lambda x, value: None if x is None else jnp.pad(x, ((0, 0), (0, pad)), constant_values=value)
    return extras._replace(
        segments_BT=at_end(segments_BT if extras.segments_BT is None else extras.segments_BT, -2),
        positions_BT=at_end(extras.positions_BT, 0),
        bias_HZ=None if extras.bias_HZ is None else jnp.pad(extras.bias_HZ, ((0, 0), (pad, pad))),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q_BTHK, k_BTGK, v_BTGJ, extras, how):
    return _forward(q_BTHK, k_BTGK, v_BTGJ, extras, how)[0]


def _tied(q_BTHK, extras):
    """`extras` and the constants 0 and MASKED, as if they depended on q.

    Masks and biases are made of them. JAX moves what depends on no layer out of the loop over layers, for all blocks at
    once: else it would hold the masks of all T x S pairs, for every row and head.
    """
    return lax.optimization_barrier((extras, jnp.int32(0), jnp.float32(MASKED), q_BTHK))[:3]


def _queries_first(x_BTHK, G):
    """(B, T, H, K) to (B, G, R, T, K)."""
    B, T, H, K = x_BTHK.shape
    return x_BTHK.reshape(B, T, G, H // G, K).transpose(0, 2, 3, 1, 4)


def _cut_queries(x_BGRTK, start, C):
    """One block of queries, those of all R heads of a group on one axis: (B, G, Q = R C, K)."""
    x_BGRCK = lax.dynamic_slice_in_dim(x_BGRTK, start, C, 3)
    return x_BGRCK.reshape(*x_BGRCK.shape[:2], -1, x_BGRCK.shape[-1])


def _scores(q_BGQK, k_BGLK, start, key_start, tied, how):
    """Masked scores (B, G, L, Q) in float32 of the queries at `start` and the keys at `key_start`, and the function
    that takes a gradient of scores to one of products q.k."""
    (extras, zero, masked), (rule, C), L = tied, how, k_BGLK.shape[2]
    products = jnp.einsum("bglk,bgqk->bglq", k_BGLK, q_BGQK, preferred_element_type=jnp.float32)
    s_BGLQ, pull = jax.vjp(lambda u: score(u, rule.scale, rule.softcap), products)
    s_BGLRC = s_BGLQ.reshape(*s_BGLQ.shape[:3], -1, C)
    if extras.bias_HZ is not None:
        bias_GRZ = extras.bias_HZ.reshape(k_BGLK.shape[1], -1, extras.bias_HZ.shape[-1])
        line_GRX = lax.dynamic_slice_in_dim(bias_GRZ, _line(extras, start, key_start, L), L + C - 1, 2)
        s_BGLRC += jnp.moveaxis(toeplitz.matrix(line_GRX, L, C), 2, 1)[None]
    query_1C, key_1L = (zero + start + jnp.arange(C))[None], (zero + key_start + jnp.arange(L))[None]
    cut = lambda x, at, n: None if x is None else lax.dynamic_slice_in_dim(x, at, n, 1)
    part = lambda at, n: Extras(cut(extras.segments_BT, at, n), cut(extras.positions_BT, at, n))
    mask_BCL = rule.visible(query_1C, key_1L, part(start, C), part(key_start, L))
    s_BGLRC = jnp.where(mask_BCL.swapaxes(1, 2)[:, None, :, None], s_BGLRC, masked)
    return s_BGLRC.reshape(s_BGLQ.shape), lambda ds_BGLQ: pull(ds_BGLQ)[0]


def _line(extras, start, key_start, L):
    """Where the biases of a block begin in their table (H, 2 T - 1): at its first query and last key."""
    T = (extras.bias_HZ.shape[-1] + 1) // 2
    return start - key_start + T - L


def _dropping(like_BGLQ, start, tied, how):
    """The function that puts dropout's mask on the probabilities of a block, or on their gradient."""
    (extras, *_), (rule, _) = tied, how
    if not rule.dropout:
        return lambda p_BGLQ: p_BGLQ
    key = jax.random.fold_in(extras.key, start)
    kept_BGLQ = dropout(jnp.ones_like(like_BGLQ), rule.dropout, key, "batch", "heads", None, None)
    return lambda p_BGLQ: p_BGLQ * kept_BGLQ


def _add(total, part, start, axis):
    """`total` with `part` added to it from `start` on."""
    old = lax.dynamic_slice_in_dim(total, start, part.shape[axis], axis)
    return lax.dynamic_update_slice_in_dim(total, old + part, start, axis)


def _over_blocks(band: Band, T: int, C: int, carry, body):
    """`carry, out = body(carry, start, key_start)` for every block of a band; outs stacked on a new first axis."""
    step = lambda carry, i: body(carry, i * C, band.key_start(i * C, T, C))
    if band.last - band.first == 1:  # static slices: no copy, no loop
        carry, out = step(carry, band.first)
        return carry, jax.tree.map(lambda x: x[None], out)
    return lax.scan(step, carry, jnp.arange(band.first, band.last))


def _merge(parts, C):
    """Stacked blocks of the bands, joined along the positions: n x (..., Q = R C) to (..., R, T)."""
    whole = parts[0] if len(parts) == 1 else jnp.concatenate(parts, 0)
    whole = jnp.moveaxis(whole.reshape(*whole.shape[:-1], -1, C), 0, -2)
    return whole.reshape(*whole.shape[:-2], -1)


def _positions_first(x_BGKRT):
    """(B, G, K, R, T) to (B, T, H, K)."""
    B, G, K, R, T = x_BGKRT.shape
    return x_BGKRT.transpose(0, 4, 1, 3, 2).reshape(B, T, G * R, K)


def _forward(q_BTHK, k_BTGK, v_BTGJ, extras, how):
    (rule, C), tied, T, G = how, _tied(q_BTHK, extras), q_BTHK.shape[1], k_BTGK.shape[2]
    q_BGRTK = _queries_first(q_BTHK, G)
    k_BGTK, v_BGJT = jnp.moveaxis(k_BTGK, 1, 2), jnp.moveaxis(v_BTGJ, 1, 3)

    def attend(keys, _, start, key_start):
        k_BGLK = lax.dynamic_slice_in_dim(k_BGTK, key_start, keys, 2)
        v_BGJL = lax.dynamic_slice_in_dim(v_BGJT, key_start, keys, 3)
        s_BGLQ, _ = _scores(_cut_queries(q_BGRTK, start, C), k_BGLK, start, key_start, tied, how)
        m = jnp.max(s_BGLQ, -2, keepdims=True)
        if extras.sinks_H is not None:
            sink_1G1RC = jnp.broadcast_to(extras.sinks_H.reshape(1, G, 1, -1, 1), (1, G, 1, q_BGRTK.shape[2], C))
            sink_1G1Q = sink_1G1RC.reshape(1, G, 1, -1)
            m = jnp.maximum(m, sink_1G1Q)
        p_BGLQ = jnp.exp(s_BGLQ - m)
        total = jnp.sum(p_BGLQ, -2, keepdims=True)
        if extras.sinks_H is not None:
            total += jnp.exp(sink_1G1Q - m)
        drop = _dropping(p_BGLQ, start, tied, how)
        o_BGJQ = jnp.einsum("bgjl,bglq->bgjq", v_BGJL, drop(p_BGLQ).astype(v_BGJL.dtype)) / total
        return None, (o_BGJQ.astype(q_BGRTK.dtype), (m + jnp.log(total))[..., 0, :])

    outs = [
        _over_blocks(band, T, C, None, functools.partial(attend, band.keys))[1]
        for band in bands(T, C, rule.causal, rule.reach)
    ]
    o_BTHJ = checkpoint_name(_positions_first(_merge([o for o, _ in outs], C)), "attention")
    lse_BGRT = checkpoint_name(_merge([lse for _, lse in outs], C), "attention")
    return o_BTHJ, (q_BTHK, k_BTGK, v_BTGJ, extras, o_BTHJ, lse_BGRT)


def _backward(how, saved, do_BTHJ):
    q_BTHK, k_BTGK, v_BTGJ, extras, o_BTHJ, lse_BGRT = saved
    (rule, C), tied, T, G = how, _tied(q_BTHK, extras), q_BTHK.shape[1], k_BTGK.shape[2]
    delta_BTH = jnp.sum(do_BTHJ.astype(jnp.float32) * o_BTHJ.astype(jnp.float32), -1)
    delta_BGRT = _queries_first(delta_BTH[..., None], G)[..., 0]
    q_BGRTK, do_BGRTJ = _queries_first(q_BTHK, G), _queries_first(do_BTHJ, G)
    k_BGTK, k_BGKT, v_BGTJ = jnp.moveaxis(k_BTGK, 1, 2), jnp.moveaxis(k_BTGK, 1, 3), jnp.moveaxis(v_BTGJ, 1, 2)

    def attend(keys, carry, start, key_start):
        q_BGQK, do_BGQJ = _cut_queries(q_BGRTK, start, C), _cut_queries(do_BGRTJ, start, C)
        k_BGLK, v_BGLJ = (lax.dynamic_slice_in_dim(x, key_start, keys, 2) for x in (k_BGTK, v_BGTJ))
        k_BGKL = lax.dynamic_slice_in_dim(k_BGKT, key_start, keys, 3)
        lse_BG1Q, delta_BG1Q = (_cut_queries(x[..., None], start, C).swapaxes(2, 3) for x in (lse_BGRT, delta_BGRT))
        s_BGLQ, pull = _scores(q_BGQK, k_BGLK, start, key_start, tied, how)
        p_BGLQ = jnp.exp(s_BGLQ - lse_BG1Q)
        drop = _dropping(p_BGLQ, start, tied, how)
        dp_BGLQ = drop(jnp.einsum("bglj,bgqj->bglq", v_BGLJ, do_BGQJ, preferred_element_type=jnp.float32))
        ds_BGLQ = p_BGLQ * (dp_BGLQ - delta_BG1Q)
        dproducts, p_BGLQ = pull(ds_BGLQ).astype(q_BGQK.dtype), drop(p_BGLQ).astype(do_BGQJ.dtype)
        dk_BGLK = jnp.einsum("bglq,bgqk->bglk", dproducts, q_BGQK, preferred_element_type=jnp.float32)
        dv_BGLJ = jnp.einsum("bglq,bgqj->bglj", p_BGLQ, do_BGQJ, preferred_element_type=jnp.float32)
        dk_BGTK, dv_BGTJ, dbias_BGRZ = carry
        if dbias_BGRZ is not None:
            ds_BGRLC = jnp.moveaxis(ds_BGLQ.reshape(*ds_BGLQ.shape[:3], -1, C), 3, 2)
            dbias_BGRZ = _add(dbias_BGRZ, toeplitz.diagonal_sums(ds_BGRLC), _line(extras, start, key_start, keys), 3)
        carry = _add(dk_BGTK, dk_BGLK, key_start, 2), _add(dv_BGTJ, dv_BGLJ, key_start, 2), dbias_BGRZ
        return carry, jnp.einsum("bgkl,bglq->bgkq", k_BGKL, dproducts)

    # Each row sums its own gradient of the bias: over the rows, which may lie on many devices, only at the end.
    zero_BGRT = jnp.zeros_like(lse_BGRT)
    no_dbias = None if extras.bias_HZ is None else jnp.concatenate([zero_BGRT, zero_BGRT[..., 1:]], -1)
    carry, dqs = (jnp.zeros_like(k_BGTK, jnp.float32), jnp.zeros_like(v_BGTJ, jnp.float32), no_dbias), []
    for band in bands(T, C, rule.causal, rule.reach):
        carry, dq = _over_blocks(band, T, C, carry, functools.partial(attend, band.keys))
        dqs.append(dq)
    dk_BGTK, dv_BGTJ, dbias_BGRZ = carry
    dk_BTGK = jnp.moveaxis(dk_BGTK, 2, 1).astype(k_BTGK.dtype)
    dv_BTGJ = jnp.moveaxis(dv_BGTJ, 2, 1).astype(v_BTGJ.dtype)
    dbias_HZ = None if dbias_BGRZ is None else dbias_BGRZ.sum(0).reshape(q_BTHK.shape[2], -1)
    dsinks_H = None
    if extras.sinks_H is not None:
        share_BGRT = jnp.exp(extras.sinks_H.reshape(1, G, -1, 1) - lse_BGRT)
        dsinks_H = -jnp.sum(share_BGRT * delta_BGRT, (0, 3)).reshape(-1)
    return _positions_first(_merge(dqs, C)), dk_BTGK, dv_BTGJ, Extras(bias_HZ=dbias_HZ, sinks_H=dsinks_H)


_attend.defvjp(_forward, _backward)
