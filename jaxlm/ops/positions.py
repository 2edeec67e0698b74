"""Position encodings as functions of integer positions: sinusoids to add, rotations to apply."""

import jax.numpy as jnp

from jaxlm.axes import Array


def sinusoidal(positions_BT: Array, D: int, base: float = 10_000.0) -> Array:
    """Fixed sinusoids (Vaswani et al. 2017, arXiv:1706.03762), float32 (B, T, D).

    e[t, 2i] = sin(t / base^(2i/D)), e[t, 2i+1] = cos(t / base^(2i/D)). D must be even.
    """
    angle_BTk = _angles(positions_BT, D, base)
    return jnp.stack([jnp.sin(angle_BTk), jnp.cos(angle_BTk)], -1).reshape(*positions_BT.shape, D)


def rotate(x_BTHK: Array, positions_BT: Array, base: float = 10_000.0) -> Array:
    """Rotary position embedding of queries or keys (RoPE; Su et al. 2021, arXiv:2104.09864), halves paired.

    The pair (x[i], x[i + K/2]) turns by the angle t / base^(2i/K), so a dot product of two rotated vectors depends
    on their distance only. `positions_BT` may have one row, for all rows of x. K must be even.
    """
    angle_BT1k = _angles(positions_BT, x_BTHK.shape[-1], base)[:, :, None, :]
    cos, sin = jnp.cos(angle_BT1k), jnp.sin(angle_BT1k)
    a, b = jnp.split(x_BTHK.astype(jnp.float32), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x_BTHK.dtype)


def _angles(positions_BT: Array, D: int, base: float) -> Array:
    inverse_k = base ** (-jnp.arange(0, D, 2, dtype=jnp.float32) / D)
    return positions_BT.astype(jnp.float32)[:, :, None] * inverse_k[None, None, :]
