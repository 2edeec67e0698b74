"""Attention within a window, and to a few tokens that all see: linear in the length."""

import functools

import jax
import jax.numpy as jnp

from jaxlm.axes import Array
from jaxlm.ops.rule import MASKED

BLOCK = 128  # queries at a time, or as many as the window reaches to one side


def local_global_attention(
    q_BTHK: Array,
    k_BTHK: Array,
    v_BTHK: Array,
    segments_BT: Array | None = None,
    global_BA: Array | None = None,
    *,
    reach: int,
    scale: float | None = None,
) -> Array:
    """Exact attention of every query to the keys at most `reach` places away and to those at the places `global_BA` (-1
    is none), under one softmax (Longformer; Beltagy et al. 2020, arXiv:2004.05150); returns (B, T, H, K).

    Queries are taken in blocks of C, of which one is computed at a time, backward too: memory is that of C (C + 2 reach
    + A) scores a head beside copies of keys and values, 1 + 2 reach / C of each.
    """
    T, K = q_BTHK.shape[1], q_BTHK.shape[3]
    C = min(T, max(reach, BLOCK))
    n, reach = -(-T // C), min(reach, T)
    segments_BT = jnp.ones(q_BTHK.shape[:2], jnp.int32) if segments_BT is None else segments_BT
    global_BA = jnp.full((len(q_BTHK), 0), -1) if global_BA is None else global_BA
    is_global_BT = jnp.zeros(q_BTHK.shape[:2], bool).at[_rows(global_BA), _places(global_BA, T)].set(True, mode="drop")
    at_nS = (jnp.arange(n) * C)[:, None] + jnp.arange(C + 2 * reach)[None]  # keys of each block, `reach` before them

    def blocks(x: Array) -> Array:
        """(B, T, ...) to (n, B, C, ...)."""
        x = jnp.pad(x, ((0, 0), (0, n * C - T), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(len(x), n, C, *x.shape[2:]), 1, 0)

    def around(x: Array) -> Array:
        """(B, T, ...) to (n, B, C + 2 reach, ...), blocks with what is near."""
        x = jnp.pad(x, ((0, 0), (reach, n * C - T + reach), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(x[:, at_nS], 1, 0)

    g_k_BAHK, g_v_BAHK, g_segment_BA = (take(x, global_BA) for x in (k_BTHK, v_BTHK, segments_BT))
    near_CS = abs(jnp.arange(C)[:, None] + reach - jnp.arange(C + 2 * reach)[None]) <= reach
    here_nS = (at_nS >= reach) & (at_nS < T + reach)
    scale = float(K**-0.5 if scale is None else scale)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def block(piece):
        q_BCHK, segment_BC, k_BSHK, v_BSHK, segment_BS, global_BS, here_S = piece
        k_BSHK, v_BSHK = jnp.concatenate([k_BSHK, g_k_BAHK], 1), jnp.concatenate([v_BSHK, g_v_BAHK], 1)
        near_BCS = (near_CS & here_S[None])[None] & ~global_BS[:, None]
        everywhere_BCA = jnp.broadcast_to((global_BA >= 0)[:, None], (*segment_BC.shape, global_BA.shape[1]))
        same_BCS = segment_BC[:, :, None] == jnp.concatenate([segment_BS, g_segment_BA], 1)[:, None]
        mask_BCS = jnp.concatenate([near_BCS, everywhere_BCA], -1) & same_BCS
        return masked_attention(q_BCHK, k_BSHK, v_BSHK, mask_BCS, scale)

    keys = (around(x) for x in (k_BTHK, v_BTHK, segments_BT, is_global_BT))
    o_nBCHK = jax.lax.map(block, (blocks(q_BTHK), blocks(segments_BT), *keys, here_nS))
    return jnp.moveaxis(o_nBCHK, 0, 1).reshape(len(q_BTHK), n * C, *q_BTHK.shape[2:])[:, :T]


def masked_attention(q_BTHK: Array, k_BSHK: Array, v_BSHK: Array, mask_BTS: Array, scale: float) -> Array:
    """Attention with all T x S scores, for few of either; (B, T, H, K)."""
    s_BHTS = jnp.einsum("bthk,bshk->bhts", q_BTHK, k_BSHK, preferred_element_type=jnp.float32) * scale
    p_BHTS = jax.nn.softmax(jnp.where(mask_BTS[:, None], s_BHTS, MASKED), -1).astype(v_BSHK.dtype)
    return jnp.einsum("bhts,bshk->bthk", p_BHTS, v_BSHK)


def take(x_BT: Array, at_BA: Array) -> Array:
    """What stands at these places of each row; anything at -1."""
    return jnp.asarray(x_BT)[_rows(at_BA), jnp.maximum(at_BA, 0)]


def put(x_BT: Array, at_BA: Array, values_BA: Array) -> Array:
    """The array with these values at these places; those at -1 go nowhere."""
    return x_BT.at[_rows(at_BA), _places(at_BA, x_BT.shape[1])].set(values_BA, mode="drop")


def _rows(at_BA: Array) -> Array:
    return jnp.arange(len(at_BA))[:, None]


def _places(at_BA: Array, T: int) -> Array:
    return jnp.where(at_BA < 0, T, at_BA)
