"""Multi-head latent attention (MLA) that reads its compressed cache as it is, without expanding it to heads."""

import jax
import jax.numpy as jnp

from jaxlm.axes import Array
from jaxlm.ops.rule import MASKED


def latent_attention_with_past(
    q_BTHL: Array,
    turned_BTHK: Array,
    past: tuple[Array, Array],
    new: tuple[Array, Array],
    mask_BTS: Array,
    mask_BTT: Array,
    scale: float,
) -> Array:
    """MLA while decoding: attention of queries brought to the latent width to a cache of latents and rotated keys that
    all heads share.

    With q' = q W_uk, scores are scale (q' . c_s + turned . r_s) and the result is sum_s p_s c_s (B, T, H, L), which the
    caller brings to heads by W_uv: the same numbers as expanding keys and values, for S (L + K) numbers read instead of
    S H (K + J) (DeepSeek-V2, arXiv:2405.04434, section 2.1). `past` and `new` are pairs (c_BSL, r_BSK).
    """

    def scores(pair, mask):
        c_BSL, r_BSK = (x.astype(q_BTHL.dtype) for x in pair)
        s_BHTS = jnp.einsum("bthl,bsl->bhts", q_BTHL, c_BSL, preferred_element_type=jnp.float32)
        s_BHTS += jnp.einsum("bthk,bsk->bhts", turned_BTHK, r_BSK, preferred_element_type=jnp.float32)
        return jnp.where(mask[:, None], s_BHTS * scale, MASKED)

    S = past[0].shape[1]
    p_BHTS = jax.nn.softmax(jnp.concatenate([scores(past, mask_BTS), scores(new, mask_BTT)], -1), -1)
    p_BHTS = p_BHTS.astype(q_BTHL.dtype)
    o_BHTL = jnp.einsum("bhts,bsl->bhtl", p_BHTS[..., :S], past[0].astype(q_BTHL.dtype))
    o_BHTL += jnp.einsum("bhts,bsl->bhtl", p_BHTS[..., S:], new[0].astype(q_BTHL.dtype))
    return o_BHTL.swapaxes(1, 2)
