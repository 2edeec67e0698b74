"""Toeplitz matrices, constant along their diagonals, as a bias by distance is: m[l, c] = line[c - l + L - 1].

An L x C block needs L + C - 1 numbers. No gather and no scatter: C copies of a line of N numbers, read again in rows of
N - 1, move by one from row to row.
"""

import jax.numpy as jnp

from jaxlm.axes import Array


def matrix(line_X: Array, L: int, C: int) -> Array:
    """(..., L + C - 1) to (..., L, C)."""
    N = L + C
    ring_N = jnp.concatenate([line_X[..., L - 1 :: -1], jnp.zeros_like(line_X[..., :1]), line_X[..., : L - 1 : -1]], -1)
    rows = jnp.broadcast_to(ring_N[..., None, :], (*ring_N.shape[:-1], C, N)).reshape(*ring_N.shape[:-1], C * N)
    return rows[..., : C * (N - 1)].reshape(*ring_N.shape[:-1], C, N - 1)[..., :L].swapaxes(-1, -2)


def diagonal_sums(m_LC: Array) -> Array:
    """(..., L, C) to (..., L + C - 1): the sum of each diagonal, which is the transpose of `matrix`."""
    *outer, L, C = m_LC.shape
    N, keep = L + C, [(0, 0)] * len(outer)
    rows = jnp.pad(m_LC.swapaxes(-1, -2), [*keep, (0, 0), (0, C - 1)]).reshape(*outer, C * (N - 1))
    ring_N = jnp.pad(rows, [*keep, (0, C)]).reshape(*outer, C, N).sum(-2)
    return jnp.concatenate([ring_N[..., L - 1 :: -1], ring_N[..., :L:-1]], -1)
