"""Gated linear attention: a state that decays and takes in one product of key and value a token, by matrix products.

S_t = diag(a_t) S_(t-1) + k_t v_t^T, y_t = S_t^T q_t: each of H heads has a state (K, J). The decay a is constant
(RetNet; Sun et al. 2023, arXiv:2307.08621), or comes from the input, one for a head or one for each of its K channels
(GLA; Yang et al. 2023, arXiv:2312.06635; HGRN2; Qin et al. 2024, arXiv:2404.07904). RWKV-5 and 6 (Peng et al. 2024,
arXiv:2404.05892) read what was there before and give the newest token a bonus u instead of letting it in first: y_t =
(S_(t-1) + (u k_t) v_t^T)^T r_t. States, and all of a chunk, are float32. A token with k = 0 and a = 1 changes nothing,
so padding is that.
"""

import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.ops.decayed import by_heads, carried, decayed, forgotten, lower
from jaxlm.ops.recurrence import marks, over_chunks

CHUNK = 64  # positions at a time, whose scores (B, H, CHUNK, CHUNK) are held


def gated_linear(
    q_BTHK: Array,
    k_BTHK: Array,
    v_BTHJ: Array,
    log_BTHK: Array,
    bonus_HK: Array | None = None,
    state_BHKJ: Array | None = None,
    segments_BT: Array | None = None,
    chunk: int = CHUNK,
) -> tuple[Array, Array]:
    """All positions, `chunk` of them at once: time and memory are linear in T.

    Args:
        q_BTHK: what is read.
        k_BTHK: where a value is written.
        v_BTHJ: values.
        log_BTHK: log a, not positive, of any size; its last dimension may be 1, for all channels.
        bonus_HK: u: the state is read before its decay and the newest token, which counts u times. None: after both.
        state_BHKJ: the states before the first token, as part of its text; None: zeros.
        segments_BT: a text begins at state zero where the segment changes. At segment 0, padding, the state stays as it
            is, so texts may be padded on the left. None: each row is one text.
        chunk: positions at a time; T is the parallel form, 1 the recurrent one. It need not divide T.

    Returns:
        y_BTHJ in the dtype of v, and the states behind the last token, float32.
    """
    fresh_BT = None
    if segments_BT is not None:
        real_BT, fresh_BT = marks(segments_BT)
        k_BTHK, log_BTHK = (jnp.where(real_BT[..., None, None], x, 0) for x in (k_BTHK, log_BTHK))
    if state_BHKJ is None:
        state_BHKJ = empty(k_BTHK, v_BTHJ)
    consts = ()
    if bonus_HK is not None:
        u_BHK = jnp.broadcast_to(bonus_HK.astype(jnp.float32)[None], (len(k_BTHK), *bonus_HK.shape))
        consts = (sharding.constrain(u_BHK, "batch", "heads", None),)
    y_BTHJ, last_BHKJ = over_chunks(_chunk, consts, state_BHKJ, (q_BTHK, k_BTHK, v_BTHJ, log_BTHK), fresh_BT, chunk)
    return y_BTHJ.astype(v_BTHJ.dtype), last_BHKJ


def gated_linear_step(
    q_BHK: Array, k_BHK: Array, v_BHJ: Array, log_BHK: Array, bonus_HK: Array | None, state_BHKJ: Array
) -> tuple[Array, Array]:
    """One more token of `gated_linear`: y_BHJ and the states behind it."""
    new_BHKJ = k_BHK[..., None] * v_BHJ[:, :, None]
    after_BHKJ = jnp.exp(log_BHK)[..., None] * state_BHKJ + new_BHKJ
    read_BHKJ = after_BHKJ if bonus_HK is None else state_BHKJ + bonus_HK[None, ..., None] * new_BHKJ
    return jnp.sum(q_BHK[..., None] * read_BHKJ, 2), after_BHKJ


def empty(k_BTHK: Array, v_BTHJ: Array) -> Array:
    """States of no token, laid out as the keys."""
    return jnp.zeros_like(k_BTHK[:, 0, ..., None], jnp.float32) * jnp.zeros((1, 1, 1, v_BTHJ.shape[-1]), jnp.float32)


def _chunk(consts, state_BHKJ, xs, fresh_BC):
    q, k, v, log = by_heads(*xs)
    own = q * (consts[0][:, :, None] if consts else 1)
    log, before = forgotten(log, fresh_BC)
    q = q if consts else q * jnp.exp(log)
    crosses, before, after, whole = decayed(q[:, :, None], k[:, :, None], log, before)
    scores_BHCC = lower([x[:, :, 0, 0] for x in crosses], q[..., 0])
    y = jnp.einsum("bhij,bhjv->bhiv", scores_BHCC, v) + jnp.sum(own * k, -1, keepdims=True) * v
    y += jnp.einsum("bhik,bhkv->bhiv", q * jnp.exp(before), state_BHKJ)
    state_BHKJ = carried(whole, state_BHKJ) + jnp.einsum("bhjk,bhjv->bhkv", k * jnp.exp(after), v)
    return state_BHKJ, jnp.moveaxis(y, 1, 2)[:, : xs[0].shape[1]]
