"""Relative positions: T5's buckets and ALiBi, which bias scores, and the vectors of Shaw et al.

A distance is query position minus key position, d = t - s: positive looks back. Biases of a text of T tokens come as
one row a head, `bias_HZ` with Z = 2T - 1: the bias of distance d stands at d + T - 1. Every head needs T numbers for
what is written as T x T; decoding asks for the distances it has.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.axes import Array
from jaxlm.errors import UserError
from jaxlm.ops.rule import MASKED


def distances(T: int) -> Array:
    """All distances in a text of T tokens, (2T - 1,), in the order of `bias_HZ`."""
    return jnp.arange(1 - T, T)


def dense_bias(bias_HZ: Array) -> Array:
    """The (H, T, T) that `bias_HZ` stands for, to look at: entry t, s is the bias of distance t - s."""
    T = (bias_HZ.shape[1] + 1) // 2
    at_T = jnp.arange(T)
    return bias_HZ[:, at_T[:, None] - at_T[None] + T - 1]


def t5_bucket(distance: Array, num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = False) -> Array:
    """The bucket 0 .. num_buckets - 1 of every distance (T5; Raffel et al. 2020, arXiv:1910.10683); any shape.

    With A buckets, the first A/2 distances back have one each; beyond, d falls into bucket
    A/2 + floor(A/2 log(d / (A/2)) / log(max_distance / (A/2))), at most A - 1. A query that only looks back puts
    keys ahead into bucket 0; a bidirectional one has half the buckets for each side, those ahead behind.
    Raises UserError for numbers that leave nothing to the logarithm.
    """
    distance = jnp.asarray(distance)
    A = num_buckets // 2 if bidirectional else num_buckets
    if A < 2 or max_distance <= A // 2 or (bidirectional and num_buckets % 2):
        raise UserError(
            f"position buckets: num_buckets={num_buckets}, max_distance={max_distance} do not fit: at least 2 buckets "
            "a side (an even number for both sides), and max_distance beyond the half that is exact"
        )
    back = jnp.abs(distance) if bidirectional else jnp.maximum(distance, 0)
    first = jnp.asarray(_firsts(A, max_distance)).reshape((1,) * back.ndim + (-1,))
    bucket = jnp.sum(back[..., None] >= first, -1, dtype=jnp.int32)
    return bucket + A * (distance < 0) if bidirectional else bucket


@functools.lru_cache
def _firsts(A: int, max_distance: int) -> np.ndarray:
    """The least distance of buckets 1 .. A - 1, in whole numbers: a logarithm in float32 can miss by one."""
    half, steps, d = A // 2, A - A // 2, A // 2
    firsts = list(range(1, half + 1))
    for i in range(1, steps):  # d >= half (max_distance / half)^(i / steps)
        while d**steps * half**i < half**steps * max_distance**i:
            d += 1
        firsts.append(d)
    return np.array(firsts, np.int32)


def bucket_bias(table_HA: Array, T: int, max_distance: int = 128, bidirectional: bool = False) -> Array:
    """(H, 2T - 1): the learned bias of every distance, one of the A buckets of `t5_bucket` for each."""
    return bucket_bias_at(table_HA, distances(T), max_distance, bidirectional)


def bucket_bias_at(table_HA: Array, distance: Array, max_distance: int = 128, bidirectional: bool = False) -> Array:
    """(H, *distance.shape): the bias of distances of any shape, as decoding has them."""
    return table_HA[:, t5_bucket(distance, table_HA.shape[1], max_distance, bidirectional)]


def alibi_slopes(H: int, max_bias: float = 8.0) -> Array:
    """Slopes of H heads (ALiBi; Press et al. 2022, arXiv:2108.12409), float32 (H,).

    m_h = 2^(-max_bias h / H), h = 1 .. H, where H is a power of two; else those of the next lower power P, followed
    by every second one of 2P, from its first on.
    """
    geometric = lambda n: 2.0 ** (-max_bias * np.arange(1, n + 1) / n)
    P = 2 ** (H.bit_length() - 1)
    return jnp.asarray(np.concatenate([geometric(P), geometric(2 * P)[::2]])[:H], jnp.float32)


def alibi_bias(slopes_H: Array, T: int) -> Array:
    """(H, 2T - 1): -slope |t - s|, which a causal query sees as slope (s - t)."""
    return alibi_bias_at(slopes_H, distances(T))


def alibi_bias_at(slopes_H: Array, distance: Array) -> Array:
    """(H, *distance.shape): the bias of distances of any shape, as decoding has them."""
    distance = jnp.asarray(distance)
    return -slopes_H.reshape((-1,) + (1,) * distance.ndim) * jnp.abs(distance)[None]


def shaw_attention(
    q_BTHK: Array,
    k_BSGK: Array,
    v_BSGK: Array,
    keys_WK: Array,
    values_WK: Array,
    mask_BTS: Array,
    distance_BTS: Array | None = None,
    scale: float | None = None,
) -> Array:
    """Attention to keys and values that each have a vector of their distance added (Shaw et al. 2018,
    arXiv:1803.02155); returns (B, T, H, K).

    o_t = sum_s softmax_s(scale q_t . (k_s + a_ts)) (v_s + b_ts), where a_ts and b_ts are row clip(t - s, -c, c) + c of
    `keys_WK` and `values_WK`, W = 2c + 1, the same for all heads. `distance_BTS` is t - s unless given; it and the mask
    may have one row, for all. Holds T x S scores, but no T x S vectors: q meets each of the W vectors once, and the
    weights are summed by distance before they meet theirs. Raises UserError for an even W.
    """
    (B, T, H, K), (S, G), W = q_BTHK.shape, k_BSGK.shape[1:3], len(keys_WK)
    if W % 2 == 0 or values_WK.shape[0] != W:
        raise UserError(f"relative vectors: {W} keys and {len(values_WK)} values must be 2c + 1, for distances -c .. c")
    if distance_BTS is None:
        distance_BTS = (jnp.arange(T)[:, None] - jnp.arange(S)[None])[None]
    scale = float(K**-0.5 if scale is None else scale)
    row_B11TS = jnp.clip(distance_BTS + W // 2, 0, W - 1)[:, None, None]

    def spread(x_BGRTW: Array) -> Array:
        """From one number a distance to one a key; its transpose sums what keys of one distance have."""
        return jnp.take_along_axis(x_BGRTW, row_B11TS, -1)

    q_BTGRK = q_BTHK.reshape(B, T, G, H // G, K)
    s_BGRTS = jnp.einsum("btgrk,bsgk->bgrts", q_BTGRK, k_BSGK, preferred_element_type=jnp.float32)
    near_BGRTW = jnp.einsum("btgrk,wk->bgrtw", q_BTGRK, keys_WK, preferred_element_type=jnp.float32)
    s_BGRTS = jnp.where(mask_BTS[:, None, None], (s_BGRTS + spread(near_BGRTW)) * scale, MASKED)
    p_BGRTS = jax.nn.softmax(s_BGRTS, -1)
    (p_BGRTW,) = jax.linear_transpose(spread, near_BGRTW)(p_BGRTS)
    o_BTGRK = jnp.einsum("bgrts,bsgk->btgrk", p_BGRTS.astype(v_BSGK.dtype), v_BSGK)
    o_BTGRK += jnp.einsum("bgrtw,wk->btgrk", p_BGRTW.astype(v_BSGK.dtype), values_WK.astype(v_BSGK.dtype))
    return o_BTGRK.reshape(q_BTHK.shape)
