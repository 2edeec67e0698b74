"""The delta rule: a state that corrects what a key holds instead of adding to it, in chunks by matrix products.

S_t = (1 - b_t k_t k_t^T) diag(a_t) S_(t-1) + b_t k_t v_t^T, y_t = S_t^T q_t (DeltaNet; Yang et al. 2024,
arXiv:2406.06484): a step of gradient descent on |S^T k - v|^2. With a decay a for each head that is Gated DeltaNet
(Yang et al. 2024, arXiv:2412.06464), with one for each channel Kimi Delta Attention (2025, arXiv:2510.26692); RWKV-7
(Peng et al. 2025, arXiv:2503.14456) removes and writes at places of their own, see `diagonal_plus_rank_one`.

In a chunk u_t, which S_t = diag(a_t) S_(t-1) + b_t k_t u_t^T takes in, is v_t less what the state and the earlier u
hold at k_t: a triangular system (the UT transform). States, and all of a chunk, are float32.
"""

import jax.numpy as jnp

from jaxlm.axes import Array
from jaxlm.ops.decayed import by_heads, carried, decayed, forgotten, inverse, lower
from jaxlm.ops.gated_linear import empty
from jaxlm.ops.recurrence import marks, over_chunks

CHUNK = 64  # positions at a time, whose scores (B, H, CHUNK, CHUNK) are held


def delta_rule(
    q_BTHK: Array,
    k_BTHK: Array,
    v_BTHJ: Array,
    rate_BTH: Array,
    log_BTHK: Array | None = None,
    state_BHKJ: Array | None = None,
    segments_BT: Array | None = None,
    chunk: int = CHUNK,
) -> tuple[Array, Array]:
    """All positions, `chunk` of them at once: time and memory are linear in T.

    Args:
        q_BTHK: what is read.
        k_BTHK: keys, of length one, or states may grow without bound.
        v_BTHJ: values.
        rate_BTH: b, how far a key's value is corrected: 0 to 1, or 2 where eigenvalues may be negative.
        log_BTHK: log a, not positive, of any size; its last dimension may be 1, for all channels. None: no decay.
        state_BHKJ: the states before the first token, as part of its text; None: zeros.
        segments_BT: a text begins at state zero where the segment changes. At segment 0, padding, the state stays as it
            is, so texts may be padded on the left. None: each row is one text.
        chunk: positions at a time; T is the parallel form, 1 the recurrent one. It need not divide T.

    Returns:
        y_BTHJ in the dtype of v, and the states behind the last token, float32.
    """
    k_BTHK = k_BTHK.astype(jnp.float32)
    log_BTHK = jnp.zeros_like(k_BTHK[..., :1]) if log_BTHK is None else log_BTHK.astype(jnp.float32)
    write_BTHK = rate_BTH.astype(jnp.float32)[..., None] * k_BTHK
    return _run((q_BTHK, write_BTHK, v_BTHJ, log_BTHK, k_BTHK * jnp.exp(log_BTHK)), state_BHKJ, segments_BT, chunk)


def diagonal_plus_rank_one(
    q_BTHK: Array,
    k_BTHK: Array,
    v_BTHJ: Array,
    log_BTHK: Array,
    from_BTHK: Array,
    to_BTHK: Array,
    state_BHKJ: Array | None = None,
    segments_BT: Array | None = None,
    chunk: int = CHUNK,
) -> tuple[Array, Array]:
    """S_t = (diag(a_t) + to_t from_t^T) S_(t-1) + k_t v_t^T, y_t = S_t^T q_t: what stands at `from` is read before the
    decay, and written at `to`. The other arguments and the results are as in `delta_rule`."""
    return _run((q_BTHK, k_BTHK, v_BTHJ, log_BTHK, from_BTHK, to_BTHK), state_BHKJ, segments_BT, chunk)


def delta_step(
    q_BHK: Array, k_BHK: Array, v_BHJ: Array, rate_BH: Array, log_BHK: Array, state_BHKJ: Array
) -> tuple[Array, Array]:
    """One more token of `delta_rule`: y_BHJ and the states behind it."""
    state_BHKJ = jnp.exp(log_BHK)[..., None] * state_BHKJ
    u_BHJ = rate_BH[..., None] * (v_BHJ - jnp.sum(k_BHK[..., None] * state_BHKJ, 2))
    state_BHKJ += k_BHK[..., None] * u_BHJ[:, :, None]
    return jnp.sum(q_BHK[..., None] * state_BHKJ, 2), state_BHKJ


def rank_one_step(
    q_BHK: Array, k_BHK: Array, v_BHJ: Array, log_BHK: Array, from_BHK: Array, to_BHK: Array, state_BHKJ: Array
) -> tuple[Array, Array]:
    """One more token of `diagonal_plus_rank_one`: y_BHJ and the states behind it."""
    found_BHJ = jnp.sum(from_BHK[..., None] * state_BHKJ, 2)
    state_BHKJ = jnp.exp(log_BHK)[..., None] * state_BHKJ + to_BHK[..., None] * found_BHJ[:, :, None]
    state_BHKJ += k_BHK[..., None] * v_BHJ[:, :, None]
    return jnp.sum(q_BHK[..., None] * state_BHKJ, 2), state_BHKJ


def _run(xs, state_BHKJ, segments_BT, chunk):
    q_BTHK, k_BTHK, v_BTHJ, log_BTHK, *places = xs
    fresh_BT = None
    if segments_BT is not None:
        real_BT, fresh_BT = marks(segments_BT)
        keep = lambda x: jnp.where(real_BT[..., None, None], x, 0)
        k_BTHK, log_BTHK, places = keep(k_BTHK), keep(log_BTHK), [keep(x) for x in places]
    if state_BHKJ is None:
        state_BHKJ = empty(k_BTHK, v_BTHJ)
    xs = q_BTHK, k_BTHK, v_BTHJ, log_BTHK, *places
    y_BTHJ, last_BHKJ = over_chunks(_chunk, (), state_BHKJ, xs, fresh_BT, chunk)
    return y_BTHJ.astype(v_BTHJ.dtype), last_BHKJ


def _chunk(_, state_BHKJ, xs, fresh_BC):
    q, k, v, log, erase, *to = by_heads(*xs)
    log, before = forgotten(log, fresh_BC)
    reads_BHRCK = jnp.stack([erase, q * jnp.exp(log)], 2)
    keys_BHQCK = jnp.stack([*to, k], 2)
    crosses, before, after, whole = decayed(reads_BHRCK, keys_BHQCK, log, before)
    scores_BHRQCC = lower(crosses, jnp.zeros_like(reads_BHRCK[:, :, :, None, :, 0] * keys_BHQCK[:, :, None, :, :, 0]))
    held = jnp.einsum("bhrik,bhkv->bhriv", reads_BHRCK * jnp.exp(before)[:, :, None], state_BHKJ)
    if to:  # what stands at `from`: of the state, of values, and of what was found before
        found = held[:, :, 0] + jnp.einsum("bhij,bhjv->bhiv", scores_BHRQCC[:, :, 0, 1], v)
        solved = inverse([x[:, :, 0, 0] for x in crosses], q[..., 0])
        values_BHQCJ = jnp.stack([jnp.einsum("bhij,bhjv->bhiv", solved, found), v], 2)
    else:  # the values, less what stands at their keys
        solved = inverse([-x[:, :, 0, 0] for x in crosses], q[..., 0])
        values_BHQCJ = jnp.einsum("bhij,bhjv->bhiv", solved, v - held[:, :, 0])[:, :, None]
    y = held[:, :, 1] + jnp.einsum("bhqij,bhqjv->bhiv", scores_BHRQCC[:, :, 1], values_BHQCJ)
    y += jnp.sum(jnp.sum(q[:, :, None] * keys_BHQCK, -1, keepdims=True) * values_BHQCJ, 2)
    new_BHKJ = jnp.einsum("bhqjk,bhqjv->bhkv", keys_BHQCK * jnp.exp(after)[:, :, None], values_BHQCJ)
    return carried(whole, state_BHKJ) + new_BHKJ, jnp.moveaxis(y, 1, 2)[:, : xs[0].shape[1]]
