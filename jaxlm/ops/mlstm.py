"""The matrix memory of xLSTM, mLSTM (Beck et al. 2024, arXiv:2405.04517), whose input gate is an exponential.

S_t = f_t S_(t-1) + exp(i_t) k_t v_t^T, n_t = f_t n_(t-1) + exp(i_t) k_t, y_t = q S_t / max(|q n_t|, 1) with
f = sigmoid of its gate and q scaled by K^-1/2. States are S e^-m and n e^-m, where m, the stabiliser, is the largest
exponent so far: m_t = max(log f_t + m_(t-1), i_t). Within a chunk it is attention without softmax under the mask
exp(sum_(j < l <= t) log f_l + i_j - m_t); between chunks the state is handed on. All of a chunk is float32. A value has
one more column, of ones, whose state is n.
"""

import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.ops.recurrence import marks, over_chunks

CHUNK = 64  # positions at a time, whose scores (B, H, CHUNK, CHUNK) are held
EMPTY = -1e30  # the input gate of no token
State = tuple[Array, Array]  # (B, H, K, J + 1), the last column n, and m (B, H)


def mlstm(
    q_BTHK: Array,
    k_BTHK: Array,
    v_BTHJ: Array,
    i_BTH: Array,
    f_BTH: Array,
    state: State | None = None,
    segments_BT: Array | None = None,
    chunk: int = CHUNK,
    eps: float = 1e-6,
) -> tuple[Array, State]:
    """All positions, `chunk` of them at once: memory is linear in T, and gates of any size are safe.

    Args:
        q_BTHK: queries; they are scaled here.
        k_BTHK: keys.
        v_BTHJ: values.
        i_BTH: input gates, before their exponential.
        f_BTH: forget gates, before their sigmoid.
        state: that before the first token, as part of its text; None: zeros.
        segments_BT: a text begins at state zero where the segment changes. At segment 0, padding, the state stays as it
            is, so texts may be padded on the left. None: each row is one text.
        chunk: positions at a time; T is the parallel form, 1 the recurrent one. It need not divide T.
        eps: added to the denominator, beside max(|q n|, 1) e^-m.

    Returns:
        y_BTHJ in the dtype of v, and the state behind the last token, float32.
    """
    (B, T), fresh_BT = q_BTHK.shape[:2], None
    if segments_BT is None:
        real_BT = jnp.ones((B, T), bool, out_sharding=sharding.out_sharding("batch", None))
    else:
        real_BT, fresh_BT = marks(segments_BT)
    log_BTH, i_BTH = jax.nn.log_sigmoid(f_BTH.astype(jnp.float32)), i_BTH.astype(jnp.float32)
    if state is None:
        zero_BHK1 = jnp.zeros_like(k_BTHK[:, 0, ..., None], jnp.float32)
        ones_J = jnp.zeros((1, 1, 1, v_BTHJ.shape[-1] + 1), jnp.float32)
        state = zero_BHK1 * ones_J, jnp.zeros_like(i_BTH[:, 0])
    xs = q_BTHK, k_BTHK, v_BTHJ, i_BTH, log_BTH, real_BT.astype(jnp.float32)
    y_BTHJ, last = over_chunks(_chunk, jnp.full((), eps), state, xs, fresh_BT, chunk)
    return y_BTHJ.astype(v_BTHJ.dtype), last


def mlstm_step(
    q_BHK: Array, k_BHK: Array, v_BHJ: Array, i_BH: Array, f_BH: Array, state: State, eps: float = 1e-6
) -> tuple[Array, State]:
    """One more token of `mlstm`: y_BHJ and the state behind it."""
    s_BHKJ, m_BH = state
    log_BH = jax.nn.log_sigmoid(f_BH)
    new_BH = jnp.maximum(log_BH + m_BH, i_BH)
    old_BH11, in_BH11 = (jnp.exp(x - new_BH)[..., None, None] for x in (log_BH + m_BH, i_BH))
    s_BHKJ = old_BH11 * s_BHKJ + in_BH11 * k_BHK[..., None] * _with_one(v_BHJ)[:, :, None]
    sum_BHJ = jnp.einsum("bhk,bhkj->bhj", q_BHK * q_BHK.shape[-1] ** -0.5, s_BHKJ)
    return _divided(sum_BHJ, new_BH, eps), (s_BHKJ, new_BH)


def _with_one(v: Array) -> Array:
    return jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1)


def _divided(sum: Array, m: Array, eps: Array | float) -> Array:
    """The last column, n, divides the others. At m below -80 what is left is zero anyway."""
    floor = jnp.exp(jnp.minimum(-m, 80.0))
    return sum[..., :-1] / (jnp.maximum(jnp.abs(sum[..., -1]), floor) + eps)[..., None]


def _chunk(eps, state, xs, fresh_BC):
    s_BHKJ, m_BH = state
    q_BCHK, k_BCHK, v_BCHJ, i_BCH, log_BCH, real_BC = (x.astype(jnp.float32) for x in xs)
    each_C = jnp.arange(real_BC.shape[1])
    i_BHC = jnp.where(real_BC[:, None] > 0, jnp.moveaxis(i_BCH, 1, 2), EMPTY)
    log_BHC = jnp.moveaxis(log_BCH, 1, 2) * real_BC[:, None]
    seen_BQC = (each_C[:, None] >= each_C[None])[None]
    first_BC = None  # whether a token goes on from the state
    if fresh_BC is not None:
        text_BC = jnp.cumsum(fresh_BC, 1)
        seen_BQC, first_BC = seen_BQC & (text_BC[..., None] == text_BC[:, None]), text_BC == 0
    # Sums of the gates between two tokens, not differences of sums: those lose the small beside the large.
    later_QC = (each_C[:, None] > each_C[None])[None, None]
    gap_BHQC = jnp.cumsum(jnp.where(later_QC, log_BHC[..., None], 0), -2) + i_BHC[:, :, None]
    gap_BHQC = jnp.where(seen_BQC[:, None], gap_BHQC, -jnp.inf)
    since_BHC = jnp.sum(jnp.where(seen_BQC[:, None], log_BHC[:, :, None], 0), -1)  # the text, or the chunk, began
    before_BHC = since_BHC + (m_BH[..., None] if first_BC is None else jnp.where(first_BC[:, None], m_BH[..., None], 0))
    m_BHC = jnp.maximum(before_BHC, jnp.max(gap_BHQC, -1))
    mask_BHQC, old_BHC = jnp.exp(gap_BHQC - m_BHC[..., None]), jnp.exp(before_BHC - m_BHC)
    if first_BC is not None:
        old_BHC = jnp.where(first_BC[:, None], old_BHC, 0)

    q_BCHK, v_BCHJ = q_BCHK * q_BCHK.shape[-1] ** -0.5, _with_one(v_BCHJ)
    scores_BHQC = jnp.einsum("bqhk,bchk->bhqc", q_BCHK, k_BCHK) * mask_BHQC
    sum_BCHJ = jnp.einsum("bhqc,bchj->bqhj", scores_BHQC, v_BCHJ)
    sum_BCHJ += jnp.moveaxis(old_BHC, 1, 2)[..., None] * jnp.einsum("bchk,bhkj->bchj", q_BCHK, s_BHKJ)
    left_BCHK = jnp.moveaxis(mask_BHQC[:, :, -1], 1, 2)[..., None] * k_BCHK
    s_BHKJ = old_BHC[..., -1, None, None] * s_BHKJ + jnp.einsum("bchk,bchj->bhkj", left_BCHK, v_BCHJ)
    return (s_BHKJ, m_BHC[..., -1]), _divided(sum_BCHJ, jnp.moveaxis(m_BHC, 1, 2), eps)
