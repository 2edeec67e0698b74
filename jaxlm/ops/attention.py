"""Scaled dot-product attention: one entry that chooses the fastest exact form for the machine and the mask.

o_t = sum_s softmax_s(scale * q_t . k_s) v_s over the keys that `masks.visible` admits (Vaswani et al. 2017,
arXiv:1706.03762); query head h reads key/value head h // R (grouped queries, Ainslie et al. 2023, arXiv:2305.13245).
"""

import jax
import jax.numpy as jnp

from jaxlm.axes import Array
from jaxlm.errors import unknown
from jaxlm.ops import masks
from jaxlm.ops.blockwise import blockwise_attention
from jaxlm.ops.kernels import cudnn_attention, cudnn_takes, splash_attention, splash_takes

MASKED = -1e30  # not -inf: a row without a visible key must give finite numbers


def reference_attention(q_BTHK: Array, k_BSGK: Array, v_BSGK: Array, mask_BTS: Array, scale: float) -> Array:
    """Attention as the formula has it, with all T x S scores: for tests, short texts and odd masks."""
    q_BTGRK = _group(q_BTHK, k_BSGK.shape[2])
    s_BGRTS = jnp.einsum("btgrk,bsgk->bgrts", q_BTGRK, k_BSGK, preferred_element_type=jnp.float32)
    s_BGRTS = jnp.where(mask_BTS[:, None, None], s_BGRTS * scale, MASKED)
    p_BGRTS = jax.nn.softmax(s_BGRTS, -1).astype(v_BSGK.dtype)
    return jnp.einsum("bgrts,bsgk->btgrk", p_BGRTS, v_BSGK).reshape(q_BTHK.shape)


def attention(
    q_BTHK: Array,
    k_BTGK: Array,
    v_BTGK: Array,
    segments_BT: Array | None = None,
    *,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    implementation: str = "auto",
) -> Array:
    """Self-attention of tokens that stand in order; returns (B, T, H, K).

    `segments_BT` keeps packed documents and padding apart (None: each row is one text). `scale` is K^-0.5 unless
    given. `implementation` is "auto" or one of "cudnn" (NVIDIA, bfloat16 or float16), "splash" (TPU), "blockwise"
    (anywhere, memory linear in T) and "reference". Raises UserError for an unknown one.
    """
    scale = float(q_BTHK.shape[-1] ** -0.5 if scale is None else scale)
    if implementation == "auto":
        implementation = _choose(q_BTHK, k_BTGK, segments_BT, causal, window)
    if implementation == "cudnn":
        return cudnn_attention(q_BTHK, k_BTGK, v_BTGK, segments_BT, causal, window, scale)
    if implementation == "splash":
        return splash_attention(q_BTHK, k_BTGK, v_BTGK, segments_BT, causal, window, scale)
    if implementation == "blockwise":
        return blockwise_attention(q_BTHK, k_BTGK, v_BTGK, segments_BT, causal, window, scale)
    if implementation == "reference":
        index_1T = jnp.arange(q_BTHK.shape[1])[None]
        mask = masks.visible(index_1T, index_1T, segments_BT, segments_BT, causal=causal, window=window)
        return reference_attention(q_BTHK, k_BTGK, v_BTGK, mask, scale)
    names = ("auto", "cudnn", "splash", "blockwise", "reference")
    raise unknown("attention implementation", implementation, names)


def attention_with_past(
    q_BTHK: Array,
    k_BGTK: Array,
    v_BGTK: Array,
    past_k_BGSK: Array,
    past_v_BGSK: Array,
    mask_BTS: Array,
    mask_BTT: Array,
    scale: float | None = None,
) -> Array:
    """Attention of new tokens to a cache that is only read, and to themselves; returns (B, T, H, K).

    The cache and the new keys are never concatenated: two score blocks share one softmax. Heads stand before positions,
    as the products want them: on CPU, XLA would turn the whole cache round for every token.
    """
    G, S = past_k_BGSK.shape[1:3]
    scale = float(q_BTHK.shape[-1] ** -0.5 if scale is None else scale)
    q_BTGRK = _group(q_BTHK, G)

    def scores(k, mask):
        s = jnp.einsum("btgrk,bgsk->bgrts", q_BTGRK, k.astype(q_BTHK.dtype), preferred_element_type=jnp.float32)
        return jnp.where(mask[:, None, None], s * scale, MASKED)

    s_BGRTS = jnp.concatenate([scores(past_k_BGSK, mask_BTS), scores(k_BGTK, mask_BTT)], -1)
    p_BGRTS = jax.nn.softmax(s_BGRTS, -1).astype(q_BTHK.dtype)
    o_BGRTK = jnp.einsum("bgrts,bgsk->bgrtk", p_BGRTS[..., :S], past_v_BGSK.astype(q_BTHK.dtype))
    o_BGRTK += jnp.einsum("bgrts,bgsk->bgrtk", p_BGRTS[..., S:], v_BGTK)
    return jnp.moveaxis(o_BGRTK, 3, 1).reshape(q_BTHK.shape)


def _group(q_BTHK: Array, G: int) -> Array:
    B, T, H, K = q_BTHK.shape
    return q_BTHK.reshape(B, T, G, H // G, K)


def _choose(q_BTHK: Array, k_BTGK: Array, segments_BT: Array | None, causal: bool, window: int | None) -> str:
    platform = jax.default_backend()
    if platform == "gpu" and cudnn_takes(q_BTHK, segments_BT, causal, window):
        return "cudnn"
    if platform == "tpu" and splash_takes(q_BTHK, k_BTGK):
        return "splash"
    return "blockwise"
