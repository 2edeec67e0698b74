"""The weighted key-value average of RWKV-4 (Peng et al. 2023, arXiv:2305.13048).

wkv_t = (sum_(i < t) exp(k_i - (t - 1 - i) w) v_i + exp(k_t + u) v_t) / (the same without v): an average of all values
so far, weighted by their keys and, channel by channel, by distance. The two sums are p e^m and q e^m with m the largest
exponent, as in a running log-sum-exp, so that keys of any size are safe: three recurrences, computed in blocks.
States are float32. Gradients are those of the sums; m, on which these do not depend, has none.
"""

import jax.numpy as jnp

from jaxlm.axes import Array
from jaxlm.ops.blocked_scan import CHUNK, blocked_max, blocked_scan
from jaxlm.ops.recurrence import marks

EMPTY = -1e30  # the exponent of no token
State = tuple[Array, Array, Array]  # m, p and q, (B, Z) each


def wkv(
    k_BTZ: Array,
    v_BTZ: Array,
    w_Z: Array,
    u_Z: Array,
    state: State | None = None,
    segments_BT: Array | None = None,
    chunk: int = CHUNK,
) -> tuple[Array, State]:
    """All positions, in blocks of `chunk` that are computed in parallel: time and memory are linear in T.

    Args:
        k_BTZ: keys, of each channel.
        v_BTZ: values.
        w_Z: positive rates of decay.
        u_Z: the bonus of the newest token.
        state: (m, p, q) before the first token, as part of its text; None: of no token.
        segments_BT: a text begins without a past where the segment changes. At segment 0, padding, the state stays as
            it is, so texts may be padded on the left. None: each row is one text.
        chunk: positions of a block; it need not divide T.

    Returns:
        wkv_BTZ in the dtype of v, and the state behind the last token, float32.
    """
    k_BTZ, v_BTZ, dtype = k_BTZ.astype(jnp.float32), v_BTZ.astype(jnp.float32), v_BTZ.dtype
    decay_BTZ, token_BTZ, fresh_BT1 = jnp.zeros_like(k_BTZ) - w_Z[None, None], k_BTZ, False
    if segments_BT is not None:
        real_BT1, fresh_BT1 = (x[..., None] for x in marks(segments_BT))
        decay_BTZ = jnp.where(fresh_BT1, EMPTY, jnp.where(real_BT1, decay_BTZ, 0))
        token_BTZ = jnp.where(real_BT1, k_BTZ, EMPTY)
    if state is None:
        zero_BZ = jnp.zeros_like(k_BTZ[:, 0])
        state = zero_BZ + EMPTY, zero_BZ, zero_BZ
    m_BTZ = blocked_max(decay_BTZ, token_BTZ, state[0], chunk)
    before_BTZ = jnp.concatenate([state[0][:, None], m_BTZ[:, :-1]], 1)
    # where no token was yet both are EMPTY, and nothing is added
    new_BTZ = jnp.where(token_BTZ > EMPTY, jnp.exp(token_BTZ - m_BTZ), 0)
    log_BT1Z, new_BT2Z = (before_BTZ + decay_BTZ - m_BTZ)[:, :, None], jnp.stack([new_BTZ * v_BTZ, new_BTZ], 2)
    sums_BT2Z, last_B2Z = blocked_scan(log_BT1Z, new_BT2Z, jnp.stack(state[1:], 1), chunk=chunk)
    past_BT2Z = jnp.concatenate([jnp.stack(state[1:], 1)[:, None], sums_BT2Z[:, :-1]], 1)
    past = jnp.where(fresh_BT1, EMPTY, before_BTZ), past_BT2Z[:, :, 0], past_BT2Z[:, :, 1]
    y_BTZ = _read(k_BTZ + u_Z[None, None], v_BTZ, past)
    return y_BTZ.astype(dtype), (m_BTZ[:, -1], last_B2Z[:, 0], last_B2Z[:, 1])


def wkv_step(k_BZ: Array, v_BZ: Array, w_Z: Array, u_Z: Array, state: State) -> tuple[Array, State]:
    """One more token of `wkv`: wkv_BZ and the state behind it."""
    m, p, q = state
    return _read(k_BZ + u_Z[None], v_BZ, state), _add((m - w_Z[None], p, q), (k_BZ, v_BZ, jnp.ones_like(q)))


def _add(a: State, b: State) -> State:
    """Two sums in one."""
    m = jnp.maximum(a[0], b[0])
    of_a, of_b = jnp.exp(a[0] - m), jnp.exp(b[0] - m)
    return m, of_a * a[1] + of_b * b[1], of_a * a[2] + of_b * b[2]


def _read(k: Array, v: Array, state: State) -> Array:
    """The average, with one more value."""
    _, p, q = _add(state, (k, v, jnp.ones_like(k)))
    return p / q
