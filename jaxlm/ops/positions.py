"""Absolute position embeddings, as vectors to add and as factors on queries; rotary ones are in `ops.rope`, distances
in `ops.relative`."""

import jax.numpy as jnp
import numpy as np

from jaxlm.axes import Array


def sinusoidal(positions_BT: Array, D: int, base: float = 10_000.0, halves: bool = False) -> Array:
    """Sinusoidal position embeddings (Vaswani et al. 2017, arXiv:1706.03762), float32 (B, T, D).

    e[t, 2i] = sin(t / base^(2i/D)), e[t, 2i+1] = cos(t / base^(2i/D)). D must be even. With `halves` all the
    sines stand before all the cosines (Marian).
    """
    inverse_k = base ** (-jnp.arange(0, D, 2, dtype=jnp.float32) / D)
    angle_BTk = positions_BT.astype(jnp.float32)[:, :, None] * inverse_k[None, None, :]
    pairs = jnp.sin(angle_BTk), jnp.cos(angle_BTk)
    return jnp.concatenate(pairs, -1) if halves else jnp.stack(pairs, -1).reshape(*positions_BT.shape, D)


def temperature(positions_BT: Array, scale: float = 0.1, step: float = 8192.0, first: int = 1) -> Array:
    """Factors on queries that keep attention sharp over long texts, float32 (B, T) (Llama 4; Nakanishi 2025,
    arXiv:2501.19399): 1 + scale ln(1 + floor((t + first) / step)), with t from 0."""
    return 1 + scale * jnp.log1p(jnp.floor((positions_BT.astype(jnp.float32) + first) / step))


def sinusoidal_2d(Y: int, X: int, D: int, base: float = 10_000.0) -> Array:
    """Sinusoidal position embeddings of a grid, float32 (Y X, D), row by row (Beyer et al. 2022, arXiv:2205.01580):
    sin(x w_k), cos(x w_k), sin(y w_k), cos(y w_k) side by side, w_k = base^(-k / (D/4 - 1)). D must be a multiple of 4.
    """
    inverse_k = base ** (-jnp.arange(D // 4, dtype=jnp.float32) / (D // 4 - 1))
    y_Tk, x_Tk = (at.reshape(-1, 1) * inverse_k[None] for at in jnp.mgrid[:Y, :X].astype(jnp.float32))
    return jnp.concatenate([jnp.sin(x_Tk), jnp.cos(x_Tk), jnp.sin(y_Tk), jnp.cos(y_Tk)], -1)


def bicubic(table_YXD: Array, Y: int, X: int) -> Array:
    """Learned positions of a grid interpolated to one of Y x X: cubic convolution (Keys 1981) with a = -0.75, edges
    repeated, corners not aligned, as PyTorch's `interpolate` does for checkpoints of ViT."""
    y_Yy, x_Xx = _cubic(Y, table_YXD.shape[0]), _cubic(X, table_YXD.shape[1])
    return jnp.einsum("Yy,Xx,yxd->YXd", y_Yy, x_Xx, table_YXD, precision="highest")


def _cubic(to: int, n: int, a: float = -0.75) -> np.ndarray:
    """(to, n): how much of each old place is in each new one."""
    at = (np.arange(to) + 0.5) * n / to - 0.5
    low = np.floor(at).astype(int)
    w = np.zeros((to, n), np.float32)
    for i in range(-1, 3):
        d = np.abs(at - (low + i))
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * (d**3 - 5 * d**2 + 8 * d - 4)
        np.add.at(w, (np.arange(to), np.clip(low + i, 0, n - 1)), np.where(d <= 1, near, far))
    return w
