"""Blockwise exact attention with its own gradient: memory linear in the length, forward and backward.

Queries are taken in chunks of C; a chunk sees only the keys it may see (its causal prefix, or its window), so no
masked block is computed but the ragged edge. The backward pass recomputes the probabilities from the saved
log-sum-exp (Dao et al. 2022, arXiv:2205.14135): with P = exp(S - lse) and delta = sum(dO * O),
dV = P^T dO, dS = P * (dO V^T - delta), dQ = dS K, dK = dS^T Q.

Scores stand keys first, S^T (L, Q) with the R queries of a group side by side in Q = R C: so no product, forward or
backward, has to turn a block of scores round. Measured on CPU, about a seventh less time than queries first.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxlm.axes import Array
from jaxlm.ops import masks

CHUNK = 128  # queries at a time: measured best of 64..512 on CPU
BANDS = 8  # causal prefixes are rounded up to this many lengths, so long texts do not unroll without end
MASKED = -1e30


@dataclasses.dataclass(frozen=True)
class _Band:
    """Chunks `first` .. `last` - 1 of the queries, each of which needs at most the `keys` keys up to its end."""

    first: int
    last: int
    keys: int


def _bands(T: int, chunk: int, causal: bool, window: int | None) -> list[_Band]:
    n = T // chunk
    if not causal:
        return [_Band(0, n, T)]
    if window is not None:
        return [_Band(0, n, min(T, chunk * (1 + -(-(window - 1) // chunk))))]
    edges = sorted({n * i // min(n, BANDS) for i in range(min(n, BANDS) + 1)})
    return [_Band(a, b, b * chunk) for a, b in zip(edges, edges[1:])]


def blockwise_attention(
    q_BTHK: Array,
    k_BTGK: Array,
    v_BTGK: Array,
    segments_BT: Array | None,
    causal: bool,
    window: int | None,
    scale: float,
    chunk: int = CHUNK,
) -> Array:
    """Self-attention, exactly `attention.reference_attention`; returns (B, T, H, K). See `attention.attention`."""
    T = q_BTHK.shape[1]
    chunk = min(chunk, T)
    pad = -T % chunk
    if pad:  # padding stands last and in a segment of its own, so no real query sees it
        widen = ((0, 0), (0, pad), (0, 0), (0, 0))
        q_BTHK, k_BTGK, v_BTGK = (jnp.pad(x, widen) for x in (q_BTHK, k_BTGK, v_BTGK))
        if segments_BT is None and not causal:
            segments_BT = jnp.zeros_like(q_BTHK[:, :T, 0, 0], jnp.int32)
        if segments_BT is not None:
            segments_BT = jnp.pad(segments_BT, ((0, 0), (0, pad)), constant_values=-2)
    o_BTHK: Any = _attend(q_BTHK, k_BTGK, v_BTGK, segments_BT, (causal, window, scale, chunk))
    return o_BTHK[:, :T]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q_BTHK, k_BTGK, v_BTGK, segments_BT, how):
    return _forward(q_BTHK, k_BTGK, v_BTGK, segments_BT, how)[0]


def _tied(q_BTHK):
    """The constants 0 and MASKED, as if they depended on q.

    Masks are made of them. JAX moves what depends on no data out of the loop over layers, for all chunks at once: with
    plain constants it would hold the masks of all T x S pairs, for every row and head.
    """
    return lax.optimization_barrier((jnp.int32(0), jnp.float32(MASKED), q_BTHK))[:2]


def _queries_first(x_BTHK, G):
    """(B, T, H, K) to (B, G, R, T, K)."""
    B, T, H, K = x_BTHK.shape
    return x_BTHK.reshape(B, T, G, H // G, K).transpose(0, 2, 3, 1, 4)


def _cut_queries(x_BGRTK, start, chunk):
    """One chunk of queries, those of all R heads of a group on one axis: (B, G, Q = R C, K)."""
    x_BGRCK = lax.dynamic_slice_in_dim(x_BGRTK, start, chunk, 3)
    return x_BGRCK.reshape(*x_BGRCK.shape[:2], -1, x_BGRCK.shape[-1])


def _scores(q_BGQK, k_BGLK, segments_BT, start, key_start, how, tied):
    """Masked scores (B, G, L, Q) in float32 of the chunk of queries at `start` and the keys at `key_start`."""
    (causal, window, scale, C), (zero, masked), L = how, tied, k_BGLK.shape[2]
    s = jnp.einsum("bglk,bgqk->bglq", k_BGLK, q_BGQK, preferred_element_type=jnp.float32) * scale
    cut = lambda at, n: None if segments_BT is None else lax.dynamic_slice_in_dim(segments_BT, at, n, 1)
    query_1C, key_1L = (zero + start + jnp.arange(C))[None], (zero + key_start + jnp.arange(L))[None]
    mask = masks.visible(query_1C, key_1L, cut(start, C), cut(key_start, L), causal=causal, window=window)
    mask_BGLRC = mask.swapaxes(1, 2)[:, None, :, None]
    return jnp.where(mask_BGLRC, s.reshape(*s.shape[:3], -1, C), masked).reshape(s.shape)


def _over_chunks(band: _Band, chunk: int, carry, body):
    """`carry, out = body(carry, start, key_start)` for every chunk of a band; outs stacked on a new first axis."""

    def step(carry, i):
        start = i * chunk
        key_start = start + chunk - band.keys
        return body(carry, start, max(key_start, 0) if isinstance(i, int) else jnp.maximum(key_start, 0))

    if band.last - band.first == 1:  # static slices: no copy, no loop
        carry, out = step(carry, band.first)
        return carry, jax.tree.map(lambda x: x[None], out)
    return lax.scan(step, carry, jnp.arange(band.first, band.last))


def _merge(parts, C):
    """Stacked chunks of the bands, joined along the positions: n x (..., Q = R C) to (..., R, T)."""
    whole = parts[0] if len(parts) == 1 else jnp.concatenate(parts, 0)
    whole = jnp.moveaxis(whole.reshape(*whole.shape[:-1], -1, C), 0, -2)
    return whole.reshape(*whole.shape[:-2], -1)


def _positions_first(x_BGKRT):
    """(B, G, K, R, T) to (B, T, H, K)."""
    B, G, K, R, T = x_BGKRT.shape
    return x_BGKRT.transpose(0, 4, 1, 3, 2).reshape(B, T, G * R, K)


def _forward(q_BTHK, k_BTGK, v_BTGK, segments_BT, how):
    (causal, window, _, chunk), tied = how, _tied(q_BTHK)
    q_BGRTK = _queries_first(q_BTHK, k_BTGK.shape[2])
    k_BGTK, v_BGKT = jnp.moveaxis(k_BTGK, 1, 2), jnp.moveaxis(v_BTGK, 1, 3)

    def attend(keys, _, start, key_start):
        k_BGLK = lax.dynamic_slice_in_dim(k_BGTK, key_start, keys, 2)
        v_BGKL = lax.dynamic_slice_in_dim(v_BGKT, key_start, keys, 3)
        s_BGLQ = _scores(_cut_queries(q_BGRTK, start, chunk), k_BGLK, segments_BT, start, key_start, how, tied)
        m = jnp.max(s_BGLQ, -2, keepdims=True)
        p_BGLQ = jnp.exp(s_BGLQ - m)
        total = jnp.sum(p_BGLQ, -2, keepdims=True)
        o_BGKQ = jnp.einsum("bgkl,bglq->bgkq", v_BGKL, p_BGLQ.astype(v_BGKL.dtype)) / total
        return None, (o_BGKQ.astype(q_BGRTK.dtype), (m + jnp.log(total))[..., 0, :])

    outs = [
        _over_chunks(band, chunk, None, functools.partial(attend, band.keys))[1]
        for band in _bands(q_BTHK.shape[1], chunk, causal, window)
    ]
    o_BTHK = checkpoint_name(_positions_first(_merge([o for o, _ in outs], chunk)), "attention")
    lse_BGRT = checkpoint_name(_merge([lse for _, lse in outs], chunk), "attention")
    return o_BTHK, (q_BTHK, k_BTGK, v_BTGK, segments_BT, o_BTHK, lse_BGRT)


def _backward(how, saved, do_BTHK):
    q_BTHK, k_BTGK, v_BTGK, segments_BT, o_BTHK, lse_BGRT = saved
    (causal, window, scale, chunk), tied, G = how, _tied(q_BTHK), k_BTGK.shape[2]
    delta_BTH = jnp.sum(do_BTHK.astype(jnp.float32) * o_BTHK.astype(jnp.float32), -1)
    delta_BGRT = _queries_first(delta_BTH[..., None], G)[..., 0]
    q_BGRTK, do_BGRTK = _queries_first(q_BTHK, G), _queries_first(do_BTHK, G)
    k_BGTK, k_BGKT, v_BGTK = jnp.moveaxis(k_BTGK, 1, 2), jnp.moveaxis(k_BTGK, 1, 3), jnp.moveaxis(v_BTGK, 1, 2)

    def attend(keys, carry, start, key_start):
        q_BGQK, do_BGQK = _cut_queries(q_BGRTK, start, chunk), _cut_queries(do_BGRTK, start, chunk)
        k_BGLK, v_BGLK = (lax.dynamic_slice_in_dim(x, key_start, keys, 2) for x in (k_BGTK, v_BGTK))
        k_BGKL = lax.dynamic_slice_in_dim(k_BGKT, key_start, keys, 3)
        lse_BG1Q, delta_BG1Q = (_cut_queries(x[..., None], start, chunk).swapaxes(2, 3) for x in (lse_BGRT, delta_BGRT))
        p_BGLQ = jnp.exp(_scores(q_BGQK, k_BGLK, segments_BT, start, key_start, how, tied) - lse_BG1Q)
        dp_BGLQ = jnp.einsum("bglk,bgqk->bglq", v_BGLK, do_BGQK, preferred_element_type=jnp.float32)
        ds_BGLQ = (p_BGLQ * (dp_BGLQ - delta_BG1Q) * scale).astype(q_BGQK.dtype)
        parts = (
            jnp.einsum("bglq,bgqk->bglk", ds_BGLQ, q_BGQK, preferred_element_type=jnp.float32),
            jnp.einsum("bglq,bgqk->bglk", p_BGLQ.astype(do_BGQK.dtype), do_BGQK, preferred_element_type=jnp.float32),
        )
        carry = tuple(
            lax.dynamic_update_slice_in_dim(
                total, lax.dynamic_slice_in_dim(total, key_start, keys, 2) + part, key_start, 2
            )
            for total, part in zip(carry, parts)
        )
        return carry, jnp.einsum("bgkl,bglq->bgkq", k_BGKL, ds_BGLQ)

    carry, dqs = (jnp.zeros_like(k_BGTK, jnp.float32), jnp.zeros_like(v_BGTK, jnp.float32)), []
    for band in _bands(q_BTHK.shape[1], chunk, causal, window):
        carry, dq = _over_chunks(band, chunk, carry, functools.partial(attend, band.keys))
        dqs.append(dq)
    dk_BTGK, dv_BTGK = (jnp.moveaxis(x, 2, 1).astype(k_BTGK.dtype) for x in carry)
    return _positions_first(_merge(dqs, chunk)), dk_BTGK, dv_BTGK, None


_attend.defvjp(_forward, _backward)
