"""One vector of a text from those of its tokens."""

import jax.numpy as jnp

from jaxlm.axes import Array
from jaxlm.errors import unknown

POOLINGS = ("mean", "cls", "last", "weighted", "max", "mean_sqrt_len")


def pool(x_BTD: Array, mask_BT: Array, how: str = "mean") -> Array:
    """float32 (B, D) of the tokens where the mask is one (Reimers and Gurevych 2019, arXiv:1908.10084).

    "mean": sum_t m_t x_t / sum_t m_t; "cls" and "last": the first and the last token; "weighted": the mean with weights
    1, 2, 3, ..., which favours tokens that have read more (Muennighoff 2022, arXiv:2202.08904); "max": of each entry;
    "mean_sqrt_len": the sum over the root of the number of tokens. Raises UserError for another name.
    """
    if how not in POOLINGS:
        raise unknown("pooling", how, POOLINGS)
    x_BTD, mask_BT = x_BTD.astype(jnp.float32), mask_BT.astype(jnp.float32)
    at_BT = jnp.cumsum(mask_BT, -1) * mask_BT  # 1, 2, 3, ... of the real tokens
    count_B1 = mask_BT.sum(-1, keepdims=True)
    if how == "max":
        return jnp.where(mask_BT[..., None] > 0, x_BTD, -jnp.inf).max(1)
    if how in ("cls", "last"):
        weights_BT = (at_BT == (1 if how == "cls" else count_B1)) * mask_BT
    elif how == "weighted":
        weights_BT = at_BT / at_BT.sum(-1, keepdims=True)
    else:
        weights_BT = mask_BT / (count_B1 if how == "mean" else jnp.sqrt(count_B1))
    return (weights_BT[..., None] * x_BTD).sum(1)  # as exact as the states: a product would round them on accelerators
