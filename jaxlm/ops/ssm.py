"""Diagonal state spaces that do not depend on their input (S4D; Gu et al. 2022, arXiv:2206.11893): a long convolution
to train, a recurrence to decode.

h_t = exp(dt A) h_(t-1) + x_t, y_t = 2 Re(C h_t) + d x_t: each of F channels has Z complex states, one of each pair of
conjugates. Its kernel, K_l = 2 Re(sum_z C exp(dt A l)), is computed for all l at once by products of two powers,
l = i n + j. States are complex64.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.ops.long_conv import long_conv
from jaxlm.ops.recurrence import linear_scan, marks, over_chunks

CHUNK = 64  # positions at a time, whose states (B, CHUNK, F, Z) are held


def zero_order_hold(a_FZ: Array, c_FZ: Array, dt_F: Array) -> tuple[Array, Array]:
    """dt A and C (exp(dt A) - 1) / A: the continuous system of rates A, inputs 1 and outputs C, at steps of dt in which
    the input stays."""
    log_FZ = dt_F[:, None] * a_FZ
    return log_FZ, c_FZ * (jnp.exp(log_FZ) - 1) / a_FZ


def diagonal_kernel(log_FZ: Array, c_FZ: Array, T: int) -> Array:
    """What the outputs of the next T tokens get of an input: K (T, F), float32."""
    n = math.isqrt(T - 1) + 1
    steps = lambda step: jnp.arange(n, dtype=jnp.float32)[:, None, None] * (step * log_FZ)[None]
    far_nFZ, near_nFZ = 2 * c_FZ[None] * jnp.exp(steps(n)), jnp.exp(steps(1))
    both = lambda a, b: jnp.einsum("jfz,rfz->jrf", a, b, precision=lax.Precision.HIGHEST)
    k_nnF = both(far_nFZ.real, near_nFZ.real) - both(far_nFZ.imag, near_nFZ.imag)
    return k_nnF.reshape(n * n, -1)[:T]


def diagonal_conv(x_BTF: Array, log_FZ: Array, c_FZ: Array, d_F: Array, segments_BT: Array | None = None) -> Array:
    """All positions by convolution: y_BTF in the dtype of x. Arguments as in `diagonal_scan`."""
    k_TF = diagonal_kernel(log_FZ, c_FZ, x_BTF.shape[1])
    return with_skip(long_conv(x_BTF.astype(jnp.float32), k_TF, segments_BT), x_BTF, d_F)


def diagonal_scan(
    x_BTF: Array,
    log_FZ: Array,
    c_FZ: Array,
    d_F: Array,
    state_BFZ: Array | None = None,
    segments_BT: Array | None = None,
    chunk: int = CHUNK,
) -> tuple[Array, Array]:
    """All positions by recurrence, `chunk` of them in parallel: memory is linear in T.

    Args:
        x_BTF: inputs.
        log_FZ: dt A, complex, of negative real part.
        c_FZ: how states are read, complex.
        d_F: the share of x that goes past the states.
        state_BFZ: the states before the first token, as part of its text; None: zeros.
        segments_BT: a text begins at state zero where the segment changes. At segment 0, padding, the state stays as it
            is, so texts may be padded on the left. None: each row is one text.
        chunk: positions at a time; T is the parallel form, 1 the recurrent one. It need not divide T.

    Returns:
        y_BTF in the dtype of x, and the states behind the last token, complex64.
    """
    (B, T), fresh_BT = x_BTF.shape[:2], None
    real_BT = jnp.ones((B, T), bool, out_sharding=sharding.out_sharding("batch", None))
    if segments_BT is not None:
        real_BT, fresh_BT = marks(segments_BT)
    consts = tuple(of_rows(x, B) for x in (log_FZ, c_FZ))
    if state_BFZ is None:
        state_BFZ = jnp.zeros_like(x_BTF[:, 0, :, None], jnp.float32) * jnp.zeros((1, *log_FZ.shape), jnp.complex64)
    xs = x_BTF, real_BT.astype(jnp.float32)
    y_BTF, last_BFZ = over_chunks(_chunk, consts, state_BFZ, xs, fresh_BT, chunk)
    return with_skip(y_BTF, x_BTF, d_F), last_BFZ


def diagonal_step(x_BF: Array, log_FZ: Array, c_FZ: Array, d_F: Array, state_BFZ: Array) -> tuple[Array, Array]:
    """One more token of `diagonal_scan`: y_BF and the states behind it."""
    state_BFZ = jnp.exp(log_FZ)[None] * state_BFZ + x_BF[..., None]
    return 2 * jnp.sum(state_BFZ * c_FZ[None], -1).real + d_F[None] * x_BF, state_BFZ


def with_skip(y_BTF: Array, x_BTF: Array, d_F: Array) -> Array:
    """y + d x, in the dtype of x."""
    return (y_BTF + d_F.astype(jnp.float32)[None, None] * x_BTF.astype(jnp.float32)).astype(x_BTF.dtype)


def of_rows(x_FZ: Array, B: int) -> Array:
    """The same for every row, so that gradients are summed over rows once."""
    return sharding.constrain(jnp.broadcast_to(x_FZ[None], (B, *x_FZ.shape)), "batch", "mlp", None)


def _chunk(consts, state_BFZ, xs, fresh_BC):
    (log_BFZ, c_BFZ), (x_BCF, real_BC) = consts, xs
    decay_BCFZ = jnp.exp(log_BFZ[:, None] * real_BC[..., None, None])
    if fresh_BC is not None:
        decay_BCFZ = jnp.where(fresh_BC[..., None, None], 0, decay_BCFZ)
    in_BCF1 = (x_BCF.astype(jnp.float32) * real_BC[..., None])[..., None]
    states_BCFZ = linear_scan(decay_BCFZ, jnp.broadcast_to(in_BCF1, decay_BCFZ.shape).astype(jnp.complex64), state_BFZ)
    return states_BCFZ[:, -1], 2 * jnp.sum(states_BCFZ * c_BFZ[:, None], -1).real


def s4d_rates(Z: int, kind: str) -> np.ndarray:
    """A of Z complex states as it begins: -1/2 + i pi n ("lin") or -1/2 + i 2Z/pi (2Z / (2n + 1) - 1) ("inv")."""
    n = np.arange(Z)
    imag = math.pi * n if kind == "lin" else 2 * Z / math.pi * (2 * Z / (2 * n + 1) - 1)
    return -0.5 + 1j * imag
