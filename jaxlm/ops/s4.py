"""S4, state spaces of a diagonal and a matrix of rank one (Gu et al. 2022, arXiv:2111.00396): a long convolution to
train, a recurrence whose step is linear in the number of states to decode.

A = Lambda - P P^*, from HiPPO-LegS; by the bilinear rule h_t = (1 - dt/2 A)^-1 ((1 + dt/2 A) h_(t-1) + dt B x_t), and
y_t = 2 Re(C h_t) + d x_t. Each of F channels has Z complex states, one of each pair of conjugates: so P^* h is
2 Re(sum_z conj(P) h), and a step is linear over the 2Z real numbers. The inverse is Woodbury's. The kernel is
(C A^(i n)) (A^j B) for l = i n + j, with A^n by squaring. States are complex64.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.ops.long_conv import long_conv
from jaxlm.ops.recurrence import marks, over_chunks
from jaxlm.ops.ssm import of_rows, with_skip

CHUNK = 64  # positions between two states that the backward pass keeps


class DPLR(NamedTuple):
    """A continuous system of F channels: all (F, Z) complex, one of each pair of conjugates, and steps dt (F,)."""

    a_FZ: Array  # Lambda
    p_FZ: Array
    b_FZ: Array
    c_FZ: Array
    dt_F: Array


def hippo_legs(Z: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lambda, P and B (Z,) of HiPPO-LegS (Gu et al. 2020, arXiv:2008.07669) with 2Z states, in the basis in which what
    is left of A beside P P^* is diagonal; one of each pair of conjugates."""
    n = np.arange(2 * Z)
    p, b = np.sqrt(n + 0.5), np.sqrt(2 * n + 1)
    a = -np.tril(np.outer(b, b), -1) - np.diag(n + 1)
    normal = a + np.outer(p, p)  # -1/2 and a skew-symmetric matrix
    imag, v = np.linalg.eigh(-1j * (normal + np.eye(2 * Z) / 2))
    some = imag > 0
    return -0.5 + 1j * imag[some], (v.conj().T @ p)[some], (v.conj().T @ b)[some]


def s4_kernel(system: DPLR, T: int) -> Array:
    """What the outputs of the next T tokens get of an input: K (T, F), float32."""
    n = 1 << ((T - 1).bit_length() + 1) // 2
    step, in_FZ = _discrete(system)
    F, Z = in_FZ.shape
    basis_NZ = jnp.concatenate([jnp.eye(Z), 1j * jnp.eye(Z)]).astype(jnp.complex64)
    columns = jax.vmap(step)(jnp.broadcast_to(basis_NZ[:, None], (2 * Z, F, Z)) + 0 * in_FZ[None])
    a_FNN = jnp.moveaxis(_real(columns), 0, 2)
    for _ in range(n.bit_length() - 1):
        a_FNN = jnp.einsum("fij,fjk->fik", a_FNN, a_FNN, precision=lax.Precision.HIGHEST)
    _, near_nFZ = lax.scan(lambda h, _: (step(h), h), in_FZ, length=n)
    further = lambda w, _: (jnp.einsum("fi,fij->fj", w, a_FNN, precision=lax.Precision.HIGHEST), w)
    read_FN = 2 * jnp.concatenate([system.c_FZ.real, -system.c_FZ.imag], -1)
    _, far_mFN = lax.scan(further, read_FN, length=-(-T // n))
    k_mnF = jnp.einsum("mfi,nfi->mnf", far_mFN, _real(near_nFZ), precision=lax.Precision.HIGHEST)
    return k_mnF.reshape(-1, F)[:T]


def s4_conv(x_BTF: Array, system: DPLR, d_F: Array, segments_BT: Array | None = None) -> Array:
    """All positions by convolution: y_BTF in the dtype of x. Arguments as in `s4_scan`."""
    k_TF = s4_kernel(system, x_BTF.shape[1])
    return with_skip(long_conv(x_BTF.astype(jnp.float32), k_TF, segments_BT), x_BTF, d_F)


def s4_scan(
    x_BTF: Array,
    system: DPLR,
    d_F: Array,
    state_BFZ: Array | None = None,
    segments_BT: Array | None = None,
    chunk: int = CHUNK,
) -> tuple[Array, Array]:
    """All positions by recurrence, one after the other; the backward pass keeps a state every `chunk` of them.

    Arguments and results are as in `ops.ssm.diagonal_scan`, the system in place of its rates and outputs.
    """
    (B, T), fresh_BT = x_BTF.shape[:2], None
    real_BT = jnp.ones((B, T), bool, out_sharding=sharding.out_sharding("batch", None))
    if segments_BT is not None:
        real_BT, fresh_BT = marks(segments_BT)
    consts = tuple(of_rows(x, B) for x in (*system[:4], system.dt_F[:, None]))
    if state_BFZ is None:
        state_BFZ = jnp.zeros_like(x_BTF[:, 0, :, None], jnp.float32) * jnp.zeros_like(system.a_FZ)[None]
    xs = x_BTF, real_BT.astype(jnp.float32)
    y_BTF, last_BFZ = over_chunks(_chunk, consts, state_BFZ, xs, fresh_BT, chunk)
    return with_skip(y_BTF, x_BTF, d_F), last_BFZ


def s4_step(x_BF: Array, system: DPLR, d_F: Array, state_BFZ: Array) -> tuple[Array, Array]:
    """One more token of `s4_scan`: y_BF and the states behind it."""
    system = DPLR(*(x[None] for x in system))
    step, in_1FZ = _discrete(system)
    state_BFZ = step(state_BFZ) + in_1FZ * x_BF[..., None]
    return 2 * jnp.sum(state_BFZ * system.c_FZ, -1).real + d_F[None] * x_BF, state_BFZ


def _discrete(system: DPLR):
    """What a step makes of states (..., F, Z), and what an input adds; F may have any dimensions."""
    a, p, b, _, dt = system
    rate = 2 / dt[..., None]
    inner = lambda x: 2 * jnp.sum(jnp.conj(p) * x, -1, keepdims=True).real
    d = 1 / (rate - a)
    share = d * p / (1 + inner(d * p))
    inverse = lambda x: (y := d * x) - share * inner(y)
    return lambda h: inverse((rate + a) * h - p * inner(h)), 2 * inverse(b)


def _real(x: Array) -> Array:
    return jnp.concatenate([x.real, x.imag], -1)


def _chunk(consts, state_BFZ, xs, fresh_BC):
    a, p, b, c, dt_BF1 = consts
    step, in_BFZ = _discrete(DPLR(a, p, b, c, dt_BF1[..., 0]))
    marked = xs if fresh_BC is None else (*xs, fresh_BC)

    def one(h_BFZ, at):
        x_BF, real_B, *fresh_B = at
        before_BFZ = jnp.where(fresh_B[0][:, None, None], 0, h_BFZ) if fresh_B else h_BFZ
        new_BFZ = step(before_BFZ) + in_BFZ * x_BF.astype(jnp.float32)[..., None]
        new_BFZ = jnp.where(real_B[:, None, None] > 0, new_BFZ, h_BFZ)
        return new_BFZ, 2 * jnp.sum(new_BFZ * c, -1).real

    last_BFZ, y_CBF = lax.scan(one, state_BFZ, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), marked))
    return last_BFZ, jnp.moveaxis(y_CBF, 0, 1)
