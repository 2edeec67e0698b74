"""State space duality, the recurrence of Mamba-2 (Dao & Gu 2024, arXiv:2405.21060), by products of matrices.

S_t = exp(delta_t a) S_(t-1) + delta_t x_t B_t^T, y_t = S_t C_t + d x_t: each of H heads has a state (K, Z) and one rate
of decay, and G groups of heads share B and C. Within a chunk that is y = (L * C B^T) (delta x), attention without
softmax whose mask L_ij = exp(sum_(j < l <= i) delta_l a) decays with distance; between chunks the state is handed on. A
token of step size zero changes nothing, so padding is that. States, and all of a chunk, are float32.
"""

import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.ops.recurrence import marks, over_chunks

CHUNK = 128  # positions at a time, whose scores (B, H, CHUNK, CHUNK) are held


def ssd(
    x_BTHK: Array,
    delta_BTH: Array,
    a_H: Array,
    b_BTGZ: Array,
    c_BTGZ: Array,
    d_H: Array,
    state_BHKZ: Array | None = None,
    segments_BT: Array | None = None,
    chunk: int = CHUNK,
) -> tuple[Array, Array]:
    """All positions, `chunk` of them at once: memory is linear in T.

    Args:
        x_BTHK: inputs.
        delta_BTH: step sizes, positive.
        a_H: negative rates of decay.
        b_BTGZ: how inputs enter the states of a group of heads.
        c_BTGZ: how they are read.
        d_H: the share of x that goes past the states.
        state_BHKZ: the states before the first token, as part of its text; None: zeros.
        segments_BT: a text begins at state zero where the segment changes. At segment 0, padding, the state stays as it
            is, so texts may be padded on the left. None: each row is one text.
        chunk: positions at a time; T is the parallel form, 1 the recurrent one. It need not divide T.

    Returns:
        y_BTHK in the dtype of x, and the states behind the last token, float32.
    """
    fresh_BT, delta_BTH = None, delta_BTH.astype(jnp.float32)
    if segments_BT is not None:
        real_BT, fresh_BT = marks(segments_BT)
        delta_BTH = jnp.where(real_BT[..., None], delta_BTH, 0)
    a_BH = sharding.constrain(
        jnp.broadcast_to(a_H.astype(jnp.float32)[None], (len(x_BTHK), *a_H.shape)), "batch", "heads"
    )
    if state_BHKZ is None:
        zeros_Z = jnp.zeros((1, 1, 1, b_BTGZ.shape[-1]), jnp.float32)
        state_BHKZ = jnp.zeros_like(x_BTHK[:, 0, ..., None], jnp.float32) * zeros_Z
    xs = x_BTHK, delta_BTH, b_BTGZ, c_BTGZ
    y_BTHK, last_BHKZ = over_chunks(_chunk, a_BH, state_BHKZ, xs, fresh_BT, chunk)
    y_BTHK += d_H.astype(jnp.float32)[None, None, :, None] * x_BTHK.astype(jnp.float32)
    return y_BTHK.astype(x_BTHK.dtype), last_BHKZ


def ssd_step(
    x_BHK: Array, delta_BH: Array, a_H: Array, b_BGZ: Array, c_BGZ: Array, d_H: Array, state_BHKZ: Array
) -> tuple[Array, Array]:
    """One more token of `ssd`: y_BHK and the states behind it."""
    H = x_BHK.shape[1]
    b_BHZ, c_BHZ = (jnp.repeat(x, H // x.shape[1], 1) for x in (b_BGZ, c_BGZ))
    decay_BH = jnp.exp(delta_BH * a_H[None])
    new_BHKZ = (delta_BH[..., None] * x_BHK)[..., None] * b_BHZ[:, :, None]
    state_BHKZ = decay_BH[..., None, None] * state_BHKZ + new_BHKZ
    return jnp.sum(state_BHKZ * c_BHZ[:, :, None], -1) + d_H[None, :, None] * x_BHK, state_BHKZ


def _chunk(a_BH, state_BHKZ, xs, fresh_BC):
    x_BCHK, delta_BCH, b_BCGZ, c_BCGZ = (x.astype(jnp.float32) for x in xs)
    C, H = delta_BCH.shape[1:]
    each_C = jnp.arange(C)
    log_BHC = jnp.moveaxis(delta_BCH, 1, 2) * a_BH[..., None]
    # Sums of the steps between two tokens, not differences of sums: those lose the small beside the large.
    later_QC = each_C[:, None] > each_C[None]
    gap_BHQC = jnp.cumsum(jnp.where(later_QC[None, None], log_BHC[..., None], 0), -2)
    seen_BQC, go_on_BC = (each_C[:, None] >= each_C[None])[None], None
    if fresh_BC is not None:
        text_BC = jnp.cumsum(fresh_BC, 1)
        seen_BQC, go_on_BC = seen_BQC & (text_BC[..., None] == text_BC[:, None]), text_BC == 0
    decay_BHQC = jnp.exp(jnp.where(seen_BQC[:, None], gap_BHQC, -jnp.inf))
    before_BHC = jnp.exp(jnp.cumsum(log_BHC, -1))  # of the state, until each token
    if go_on_BC is not None:
        before_BHC = jnp.where(go_on_BC[:, None], before_BHC, 0)

    scores_BHQC = _of_heads(jnp.einsum("bqgz,bcgz->bgqc", c_BCGZ, b_BCGZ), H, 1) * decay_BHQC
    u_BCHK = delta_BCH[..., None] * x_BCHK
    y_BCHK = jnp.einsum("bhqc,bchk->bqhk", scores_BHQC, u_BCHK)
    read_BCHK = jnp.einsum("bchz,bhkz->bchk", _of_heads(c_BCGZ, H, 2), state_BHKZ)
    y_BCHK += jnp.moveaxis(before_BHC, 1, 2)[..., None] * read_BCHK

    left_BCHK = jnp.moveaxis(decay_BHQC[:, :, -1], 1, 2)[..., None] * u_BCHK
    new_BHKZ = jnp.einsum("bchk,bchz->bhkz", left_BCHK, _of_heads(b_BCGZ, H, 2))
    return before_BHC[..., -1, None, None] * state_BHKZ + new_BHKZ, y_BCHK


def _of_heads(x: Array, H: int, axis: int) -> Array:
    """What groups of heads share, for each of the H heads."""
    x = jnp.repeat(x, H // x.shape[axis], axis)
    return sharding.constrain(x, "batch", *(("heads" if i == axis else None) for i in range(1, x.ndim)))
