"""What Hyena's implicit filters are made of (Poli et al. 2023, arXiv:2302.10866), and its convolution one token at a
time, which has no state of one size: it keeps the row."""

import math
from typing import Any

import jax.numpy as jnp

from jaxlm.axes import Array


def filter_features(T: int, length: int, E: int) -> Array:
    """(T, E), E odd: of each position its share t of `length`, and cos and -sin of 2 pi f t at (E - 1) / 2 frequencies
    f from almost 0 up."""
    t_T1 = jnp.arange(T, dtype=jnp.float32)[:, None] / length
    waves = 2 * math.pi * t_T1 * jnp.linspace(1e-4, (E - 1) / 2 - 1, (E - 1) // 2)[None]
    return jnp.concatenate([t_T1, jnp.cos(waves), -jnp.sin(waves)], -1)


def filter_window(T: int, length: int, F: int, fast: float = 0.3, slow: float = 1.5, target: float = 1e-2) -> Array:
    """(T, F): a decay to `target` at the share `fast` of `length` in the first channel, at `slow` in the last."""
    t_T1 = jnp.arange(T, dtype=jnp.float32)[:, None] / length
    return jnp.exp(math.log(target) * t_T1 * jnp.linspace(1 / fast, 1 / slow, F)[None])


def conv_with_past(past_BSF: Array, k_SF: Array, end: Any, start_B: Any, T: int) -> Array:
    """What the next T tokens get of those before: (B, T, F), float32, in O(T S F).

    Args:
        past_BSF: inputs of the tokens of each row, the first `end` of them, which is () or (B,).
        k_SF: filters, of S + T - 1 tokens at least.
        start_B: where the text of each row begins.
    """
    slot_S = jnp.arange(past_BSF.shape[1])
    seen_BS = (slot_S[None] < jnp.reshape(end, (-1, 1))) & (slot_S[None] >= start_B[:, None])
    past_BSF = jnp.where(seen_BS[..., None], past_BSF, 0).astype(jnp.float32)
    ys = []
    for t in range(T):
        lag = jnp.maximum(jnp.reshape(end, (-1, 1)) + t - slot_S[None], 0)
        ys.append(jnp.sum(past_BSF * k_SF.at[lag].get(mode="clip"), 1))
    return jnp.stack(ys, 1)
