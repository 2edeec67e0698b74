"""The selective state space of Mamba (Gu & Dao 2023, arXiv:2312.00752): a diagonal recurrence that its input steers.

h_t = exp(delta_t A) h_(t-1) + delta_t B_t x_t, y_t = C_t h_t + D x_t: each of F channels has Z states; the step size
delta, B and C come from the input. A token of step size zero changes nothing, so padding is that. States are float32.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.ops.recurrence import linear_scan, marks, over_chunks
from jaxlm.ops.ssm import of_rows, with_skip

CHUNK = 64  # positions at a time, whose states (B, CHUNK, F, Z) are held


def selective_scan(
    x_BTF: Array,
    delta_BTF: Array,
    a_FZ: Array,
    b_BTZ: Array,
    c_BTZ: Array,
    d_F: Array,
    state_BFZ: Array | None = None,
    segments_BT: Array | None = None,
    chunk: int = CHUNK,
) -> tuple[Array, Array]:
    """All positions, `chunk` of them in parallel, or on a CPU one after the other, which is faster there: memory is
    linear in T, and no states of a whole row are held.

    Args:
        x_BTF: inputs.
        delta_BTF: step sizes, positive.
        a_FZ: negative rates of decay.
        b_BTZ: how inputs enter the states.
        c_BTZ: how states are read.
        d_F: the share of x that goes past the states.
        state_BFZ: the states before the first token, as part of its text; None: zeros.
        segments_BT: a text begins at state zero where the segment changes. At segment 0, padding, the state stays as it
            is, so texts may be padded on the left. None: each row is one text.
        chunk: positions at a time; T is the parallel form, 1 the recurrent one. It need not divide T.

    Returns:
        y_BTF in the dtype of x, and the states behind the last token, float32.
    """
    fresh_BT, delta_BTF = None, delta_BTF.astype(jnp.float32)
    if segments_BT is not None:
        real_BT, fresh_BT = marks(segments_BT)
        delta_BTF = jnp.where(real_BT[..., None], delta_BTF, 0)
    a_BFZ = of_rows(a_FZ.astype(jnp.float32), len(x_BTF))
    if state_BFZ is None:
        state_BFZ = jnp.zeros_like(x_BTF[:, 0, :, None], jnp.float32) * jnp.zeros((1, *a_FZ.shape), jnp.float32)
    y_BTF, last_BFZ = over_chunks(_chunk, a_BFZ, state_BFZ, (x_BTF, delta_BTF, b_BTZ, c_BTZ), fresh_BT, chunk)
    return with_skip(y_BTF, x_BTF, d_F), last_BFZ


def selective_scan_step(
    x_BF: Array, delta_BF: Array, a_FZ: Array, b_BZ: Array, c_BZ: Array, d_F: Array, state_BFZ: Array
) -> tuple[Array, Array]:
    """One more token of `selective_scan`: y_BF and the states behind it."""
    decay_BFZ = jnp.exp(delta_BF[..., None] * a_FZ[None])
    state_BFZ = decay_BFZ * state_BFZ + (delta_BF * x_BF)[..., None] * b_BZ[:, None]
    return jnp.sum(state_BFZ * c_BZ[:, None], -1) + d_F[None] * x_BF, state_BFZ


def _chunk(a_BFZ, state_BFZ, xs, fresh_BC):
    if sharding.platform() == "cpu":
        return _in_turn(a_BFZ, state_BFZ, xs, fresh_BC)
    x_BCF, delta_BCF, b_BCZ, c_BCZ = (x.astype(jnp.float32) for x in xs)
    decay_BCFZ = jnp.exp(delta_BCF[..., None] * a_BFZ[:, None])
    if fresh_BC is not None:
        decay_BCFZ = jnp.where(fresh_BC[..., None, None], 0, decay_BCFZ)
    states_BCFZ = linear_scan(decay_BCFZ, (delta_BCF * x_BCF)[..., None] * b_BCZ[:, :, None], state_BFZ)
    return states_BCFZ[:, -1], jnp.sum(states_BCFZ * c_BCZ[:, :, None], -1)


def _in_turn(a_BFZ, state_BFZ, xs, fresh_BC):
    """The same, one position after the other: on a processor whose cache holds a state, but not those of a chunk."""
    marked = xs if fresh_BC is None else (*xs, fresh_BC)

    def step(state_BFZ, at):
        x_BF, delta_BF, b_BZ, c_BZ = (x.astype(jnp.float32) for x in at[:4])
        decay_BFZ = jnp.exp(delta_BF[..., None] * a_BFZ)
        if fresh_BC is not None:
            decay_BFZ = jnp.where(at[4][:, None, None], 0, decay_BFZ)
        state_BFZ = decay_BFZ * state_BFZ + (delta_BF * x_BF)[..., None] * b_BZ[:, None]
        return state_BFZ, jnp.sum(state_BFZ * c_BZ[:, None], -1)

    last_BFZ, y_CBF = lax.scan(step, state_BFZ, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), marked))
    return last_BFZ, jnp.moveaxis(y_CBF, 0, 1)
