"""Optimal brain surgery of a matrix: inputs are rounded or removed in turn, and those that are left make up for it."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxlm.axes import Array

BLOCK = 128  # inputs whose changes reach the later ones in one product


def upper(hessian_II: Any, damp: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    """U of H^-1 = U^T U, upper triangular float32, of H = X^T X with `damp` of its mean diagonal added; and which
    inputs are ever other than 0."""
    h_II = np.array(hessian_II, np.float64)
    alive_I = np.diag(h_II) > 0
    mean = h_II.diagonal().mean() or 1.0
    h_II[np.diag_indices_from(h_II)] += np.where(alive_I, damp * mean, mean)
    return np.linalg.cholesky(np.linalg.inv(h_II)).T.astype(np.float32), alive_I


def solve(w_IO: Array, u_II: Array, block: int, plan: Callable, column: Callable) -> tuple[Array, Any]:
    """The weights of least |X (w - w')|^2 of which each input's are what `column` makes of them, one input after the
    other (Frantar & Alistarh 2022, arXiv:2208.11580):

        e_i = (w_i - w'_i) / U_ii,   w_j -= U_ij e_i   for all j > i

    `plan(w_BO, u_BB, start)` sees each block of inputs before it is begun, `column(w_O, plan, i)` changes its i-th.
    Plans are returned stacked.
    """
    count, columns = w_IO.shape

    def one_block(w_IO: Array, start: Array) -> tuple[Array, Any]:
        w_BO = lax.dynamic_slice(w_IO, (start, 0), (block, columns))
        u_BI = lax.dynamic_slice(u_II, (start, 0), (block, count))
        u_BB = lax.dynamic_slice(u_BI, (0, start), (block, block))
        made = plan(w_BO, u_BB, start)

        def one(w_BO: Array, i: Array) -> tuple[Array, Array]:
            e_O = (w_BO[i] - column(w_BO[i], made, i)) / u_BB[i, i]
            return w_BO - u_BB[i][:, None] * e_O[None], e_O  # rows before i stay: U is upper triangular

        _, e_BO = lax.scan(one, w_BO, jnp.arange(block))
        return w_IO - u_BI.T @ e_BO, made

    return lax.scan(one_block, w_IO, jnp.arange(0, count, block))


def blocks_of(inputs: int, most: int = BLOCK) -> int:
    """The largest block that divides so many inputs."""
    return next(n for n in range(min(inputs, most), 0, -1) if inputs % n == 0)


def error(difference_IO: Array, hessian_II: Array) -> Array:
    """|X d|^2 of H = X^T X."""
    return jnp.sum(difference_IO * (hessian_II @ difference_IO))
