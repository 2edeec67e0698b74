"""The weighted key-value average of RWKV-4 (Peng et al. 2023, arXiv:2305.13048).

wkv_t = (sum_(i < t) exp(k_i - (t - 1 - i) w) v_i + exp(k_t + u) v_t) / (the same without v): an average of all values
so far, weighted by their keys and, channel by channel, by distance. The two sums are p e^m and q e^m with m the largest
exponent, as in a running log-sum-exp, so that keys of any size are safe. A scan over chunks; states are float32.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.ops.recurrence import marks, over_chunks

CHUNK = 64  # positions at a time
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
    """All positions, `chunk` of them in parallel: time and memory are linear in T.

    Args:
        k_BTZ: keys, of each channel.
        v_BTZ: values.
        w_Z: positive rates of decay.
        u_Z: the bonus of the newest token.
        state: (m, p, q) before the first token, as part of its text; None: of no token.
        segments_BT: a text begins without a past where the segment changes. At segment 0, padding, the state stays as
            it is, so texts may be padded on the left. None: each row is one text.
        chunk: positions at a time; T is the parallel form, 1 the recurrent one. It need not divide T.

    Returns:
        wkv_BTZ in the dtype of v, and the state behind the last token, float32.
    """
    (B, T, _), fresh_BT = k_BTZ.shape, None
    if segments_BT is None:
        real_BT = jnp.ones((B, T), bool, out_sharding=sharding.out_sharding("batch", None))
    else:
        real_BT, fresh_BT = marks(segments_BT)
    real_BT = real_BT.astype(jnp.float32)
    w_BZ, u_BZ = (jnp.broadcast_to(x.astype(jnp.float32)[None], (B, *x.shape)) for x in (w_Z, u_Z))
    consts = tuple(sharding.constrain(x, "batch", "heads") for x in (w_BZ, u_BZ))
    if state is None:
        zero_BZ = jnp.zeros_like(k_BTZ[:, 0], jnp.float32)
        state = zero_BZ + EMPTY, zero_BZ, zero_BZ
    y_BTZ, last = over_chunks(_chunk, consts, state, (k_BTZ, v_BTZ, real_BT), fresh_BT, chunk)
    return y_BTZ.astype(v_BTZ.dtype), last


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


def _chunk(consts, state, xs, fresh_BC):
    w_BZ, u_BZ = consts
    k_BCZ, v_BCZ, real_BC = (x.astype(jnp.float32) for x in xs)
    real_BC1 = real_BC[..., None]
    decay_BCZ = -w_BZ[:, None] * real_BC1
    if fresh_BC is not None:
        decay_BCZ = jnp.where(fresh_BC[..., None], EMPTY, decay_BCZ)
    token = jnp.where(real_BC1 > 0, k_BCZ, EMPTY), v_BCZ * real_BC1, jnp.ones_like(v_BCZ) * real_BC1

    def both(first, second):
        (decay, (m, p, q)), (more, new) = first, second
        return decay + more, _add((m + more, p, q), new)

    decay_BCZ, sums = lax.associative_scan(both, (decay_BCZ, token), axis=1)
    m, p, q = jax.tree.map(lambda x: x[:, None], state)
    after = _add((m + decay_BCZ, p, q), sums)
    m, p, q = (jnp.concatenate([first[:, None], x[:, :-1]], 1) for first, x in zip(state, after))
    if fresh_BC is not None:
        m = jnp.where(fresh_BC[..., None], EMPTY, m)
    y_BCZ = _read(k_BCZ + u_BZ[:, None], v_BCZ, (m, p, q))
    return jax.tree.map(lambda x: x[:, -1], after), y_BCZ
