"""Linformer: attention to L mixtures of the keys and values instead of all of them: cost linear in the length."""

import jax.numpy as jnp

from jaxlm.axes import Array
from jaxlm.errors import UserError
from jaxlm.ops.attention import reference_attention


def linformer_attention(
    q_BTHK: Array,
    k_BSGK: Array,
    v_BSGK: Array,
    keys_LS: Array,
    values_LS: Array,
    mask_BS: Array | None = None,
    scale: float | None = None,
) -> Array:
    """o_t = sum_l softmax_l(scale q_t . (E k)_l) (F v)_l (Linformer; Wang et al. 2020, arXiv:2006.04768); (B, T, H, K).

    `keys_LS` and `values_LS`, E and F, mix the positions, for all heads alike; a text shorter than they are uses
    their first columns. Every mixture holds the whole text, so nothing here is causal. `mask_BS` is False on padding,
    which then takes part in no mixture. Raises UserError for a text longer than E and F.
    """
    S, longest = k_BSGK.shape[1], keys_LS.shape[1]
    if longest < S:
        raise UserError(f"linformer: a text of {S} tokens, and projections for at most {longest}: use shorter texts")
    if mask_BS is not None:
        k_BSGK, v_BSGK = (jnp.where(mask_BS[:, :, None, None], x, 0) for x in (k_BSGK, v_BSGK))
    mix = lambda x, w_LS: jnp.einsum("bsgk,ls->blgk", x, w_LS[:, :S].astype(x.dtype))
    everything_11L = jnp.ones((1, 1, len(keys_LS)), bool)
    scale = float(q_BTHK.shape[-1] ** -0.5 if scale is None else scale)
    return reference_attention(q_BTHK, mix(k_BSGK, keys_LS), mix(v_BSGK, values_LS), everything_11L, scale)
