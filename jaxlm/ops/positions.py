"""Absolute position embeddings, as vectors to add and as factors on queries; rotary ones are in `ops.rope`, distances
in `ops.relative`."""

import jax.numpy as jnp

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
