"""Causal depthwise convolution: every channel is a weighted sum of its own last W inputs.

y_t = sum_w weight_w x_(t - W + 1 + w) + bias. Of its past a step needs the last W - 1 inputs, which are its state.
"""

import jax.numpy as jnp
from jax import lax

from jaxlm.axes import Array
from jaxlm.ops.recurrence import marks


def causal_conv(
    x_BTF: Array,
    w_WF: Array,
    bias_F: Array | None = None,
    past_BWF: Array | None = None,
    segments_BT: Array | None = None,
) -> tuple[Array, Array]:
    """Each token sees itself and the W - 1 tokens before it in its text, zeros before the text's first.

    Args:
        x_BTF: inputs; F stands for any number of dimensions, the channels.
        w_WF: weights, the newest token's last (as PyTorch's Conv1d has them).
        bias_F: added.
        past_BWF: the W - 1 inputs before the first token, as part of its text; None: zeros.
        segments_BT: a text begins where the segment changes; segment 0 is padding before or behind texts, which neither
            tokens nor the state see. None: each row is one text.

    Returns:
        y_BTF in the dtype of x, sums taken in float32, and the last W - 1 inputs of the last text, float32.
    """
    (B, T), V = x_BTF.shape[:2], len(w_WF) - 1
    ones = (1,) * (x_BTF.ndim - 2)
    text_BT = None
    if segments_BT is not None:
        real_BT, fresh_BT = marks(segments_BT)
        x_BTF = jnp.where(real_BT.reshape(B, T, *ones), x_BTF, 0)
        text_BT = jnp.pad(jnp.cumsum(fresh_BT, 1), ((0, 0), (V, 0)))  # a number for each text, 0 for what is before
    if past_BWF is None:
        all_BTF = jnp.pad(x_BTF, ((0, 0), (V, 0), *((0, 0),) * len(ones)))
    else:
        all_BTF = jnp.concatenate([past_BWF.astype(x_BTF.dtype), x_BTF], 1)
    y_BTF = jnp.zeros_like(x_BTF, jnp.float32)
    for w in range(V + 1):
        term_BTF = all_BTF[:, w : w + T].astype(jnp.float32) * w_WF[w][None, None].astype(jnp.float32)
        if text_BT is not None and w < V:
            same_BT = text_BT[:, w : w + T] == text_BT[:, V:]
            term_BTF = jnp.where(same_BT.reshape(B, T, *ones), term_BTF, 0)
        y_BTF += term_BTF
    if bias_F is not None:
        y_BTF += bias_F[None, None].astype(jnp.float32)
    if text_BT is None:
        return y_BTF.astype(x_BTF.dtype), all_BTF[:, T:].astype(jnp.float32)
    # Behind the last token that is no padding: rows of a matrix that pick from all inputs.
    last_B = jnp.max(jnp.where(real_BT, jnp.arange(1, T + 1)[None], 0), 1)
    index_BV, each_T = last_B[:, None] + jnp.arange(V)[None], jnp.arange(V + T)
    picked_BVT = (index_BV[..., None] == each_T[None, None]) & (text_BT == text_BT[:, -1:])[:, None]
    state_BVF = jnp.einsum(
        "bvt,bt...->bv...", picked_BVT.astype(jnp.float32), all_BTF.astype(jnp.float32), precision=lax.Precision.HIGHEST
    )
    return y_BTF.astype(x_BTF.dtype), state_BVF
