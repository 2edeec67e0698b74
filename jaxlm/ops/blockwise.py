"""Blockwise exact attention with its own gradient: memory linear in the length, forward and backward.

Queries are taken in chunks of C; a chunk sees only the keys it may see (its causal prefix, or its window), so no
masked block is computed but the ragged edge. The backward pass recomputes the probabilities from the saved
log-sum-exp (Dao et al. 2022, arXiv:2205.14135): with P = exp(S - lse) and delta = sum(dO * O),
dV = P^T dO, dS = P * (dO V^T - delta), dQ = dS K, dK = dS^T Q.
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
    B, T, H, K = q_BTHK.shape
    G, chunk = k_BTGK.shape[2], min(chunk, T)
    pad = -T % chunk
    if pad:  # padding stands last and in a segment of its own, so no real query sees it
        widen = ((0, 0), (0, pad), (0, 0), (0, 0))
        q_BTHK, k_BTGK, v_BTGK = (jnp.pad(x, widen) for x in (q_BTHK, k_BTGK, v_BTGK))
        if segments_BT is None and not causal:
            segments_BT = jnp.zeros_like(q_BTHK[:, :T, 0, 0], jnp.int32)
        if segments_BT is not None:
            segments_BT = jnp.pad(segments_BT, ((0, 0), (0, pad)), constant_values=-2)
    q_BGRTK = q_BTHK.reshape(B, T + pad, G, H // G, K).transpose(0, 2, 3, 1, 4)
    k_BGTK, v_BGTK = k_BTGK.transpose(0, 2, 1, 3), v_BTGK.transpose(0, 2, 1, 3)
    o_BGRTK: Any = _attend(q_BGRTK, k_BGTK, v_BGTK, segments_BT, (causal, window, scale, chunk))
    return o_BGRTK.transpose(0, 3, 1, 2, 4).reshape(B, T + pad, H, K)[:, :T]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q_BGRTK, k_BGTK, v_BGTK, segments_BT, how):
    return _forward(q_BGRTK, k_BGTK, v_BGTK, segments_BT, how)[0]


def _tied(q_BGRTK):
    """The constants 0 and MASKED, as if they depended on q.

    Masks are made of them. JAX moves what depends on no data out of the loop over layers, for all chunks at once: with
    plain constants it would hold the masks of all T x S pairs, for every row and head.
    """
    return lax.optimization_barrier((jnp.int32(0), jnp.float32(MASKED), q_BGRTK))[:2]


def _scores(q_BGRCK, k_BGLK, segments_BT, start, key_start, how, tied):
    """Masked scores (B, G, R, C, L) in float32 of the chunk of queries at `start` and the keys at `key_start`."""
    (causal, window, scale, _), (zero, masked) = how, tied
    C, L = q_BGRCK.shape[3], k_BGLK.shape[2]
    s = jnp.einsum("bgrck,bglk->bgrcl", q_BGRCK, k_BGLK, preferred_element_type=jnp.float32) * scale
    cut = lambda at, n: None if segments_BT is None else lax.dynamic_slice_in_dim(segments_BT, at, n, 1)
    query_1C, key_1L = (zero + start + jnp.arange(C))[None], (zero + key_start + jnp.arange(L))[None]
    mask = masks.visible(query_1C, key_1L, cut(start, C), cut(key_start, L), causal=causal, window=window)
    return jnp.where(mask[:, None, None], s, masked)


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


def _merge(parts, axis):
    """Stacked chunks of the bands, joined along the positions: (n, ..., C, ...) -> (..., n * C, ...)."""
    whole = parts[0] if len(parts) == 1 else jnp.concatenate(parts, 0)
    whole = jnp.moveaxis(whole, 0, axis)
    return whole.reshape(*whole.shape[:axis], -1, *whole.shape[axis + 2 :])


def _forward(q_BGRTK, k_BGTK, v_BGTK, segments_BT, how):
    (causal, window, _, chunk), tied = how, _tied(q_BGRTK)
    cut = lambda x, at, n: lax.dynamic_slice_in_dim(x, at, n, x.ndim - 2)

    def attend(keys, _, start, key_start):
        s = _scores(cut(q_BGRTK, start, chunk), cut(k_BGTK, key_start, keys), segments_BT, start, key_start, how, tied)
        m = jnp.max(s, -1, keepdims=True)
        p = jnp.exp(s - m)
        total = jnp.sum(p, -1, keepdims=True)
        o = jnp.einsum("bgrcl,bglk->bgrck", p.astype(v_BGTK.dtype), cut(v_BGTK, key_start, keys))
        return None, ((o / total).astype(q_BGRTK.dtype), (m + jnp.log(total))[..., 0])

    outs = [
        _over_chunks(band, chunk, None, functools.partial(attend, band.keys))[1]
        for band in _bands(q_BGRTK.shape[3], chunk, causal, window)
    ]
    o_BGRTK = checkpoint_name(_merge([o for o, _ in outs], 3), "attention")
    lse_BGRT = checkpoint_name(_merge([lse for _, lse in outs], 3), "attention")
    return o_BGRTK, (q_BGRTK, k_BGTK, v_BGTK, segments_BT, o_BGRTK, lse_BGRT)


def _backward(how, saved, do_BGRTK):
    q_BGRTK, k_BGTK, v_BGTK, segments_BT, o_BGRTK, lse_BGRT = saved
    (causal, window, scale, chunk), tied = how, _tied(q_BGRTK)
    delta_BGRT = jnp.sum(do_BGRTK.astype(jnp.float32) * o_BGRTK.astype(jnp.float32), -1)
    cut = lambda x, at, n, axis=-2: lax.dynamic_slice_in_dim(x, at, n, axis % x.ndim)

    def attend(keys, carry, start, key_start):
        dk, dv = carry
        q, k, v = cut(q_BGRTK, start, chunk), cut(k_BGTK, key_start, keys), cut(v_BGTK, key_start, keys)
        do = cut(do_BGRTK, start, chunk)
        s = _scores(q, k, segments_BT, start, key_start, how, tied)
        p = jnp.exp(s - cut(lse_BGRT, start, chunk, -1)[..., None])
        dp = jnp.einsum("bgrck,bglk->bgrcl", do, v, preferred_element_type=jnp.float32)
        ds = (p * (dp - cut(delta_BGRT, start, chunk, -1)[..., None]) * scale).astype(q.dtype)
        add = lambda total, part: lax.dynamic_update_slice_in_dim(
            total, cut(total, key_start, keys) + part, key_start, 2
        )
        dk = add(dk, jnp.einsum("bgrcl,bgrck->bglk", ds, q, preferred_element_type=jnp.float32))
        dv = add(dv, jnp.einsum("bgrcl,bgrck->bglk", p.astype(do.dtype), do, preferred_element_type=jnp.float32))
        return (dk, dv), jnp.einsum("bgrcl,bglk->bgrck", ds, k)

    carry, dqs = (jnp.zeros_like(k_BGTK, jnp.float32), jnp.zeros_like(v_BGTK, jnp.float32)), []
    for band in _bands(q_BGRTK.shape[3], chunk, causal, window):
        carry, dq = _over_chunks(band, chunk, carry, functools.partial(attend, band.keys))
        dqs.append(dq)
    dk, dv = carry
    return _merge(dqs, 3), dk.astype(k_BGTK.dtype), dv.astype(v_BGTK.dtype), None


_attend.defvjp(_forward, _backward)
