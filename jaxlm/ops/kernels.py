"""Fused attention kernels of the accelerators, behind the signature of `blockwise.blockwise_attention`.

cuDNN's flash attention on NVIDIA GPUs comes with jax.nn; splash attention on TPUs with jax.experimental.pallas.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as mask

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.ops import masks

CUDNN_DENSE_MASK = 4096  # what needs a T x T mask there goes blockwise when it is longer


def cudnn_takes(q_BTHK: Array, segments_BT: Array | None, causal: bool, window: int | None) -> bool:
    """Whether cuDNN computes this: half precision, head width a multiple of 8 up to 128."""
    T, K = q_BTHK.shape[1], q_BTHK.shape[3]
    half = q_BTHK.dtype in (jnp.bfloat16, jnp.float16)
    short = T <= CUDNN_DENSE_MASK or not _dense(segments_BT, causal, window)
    return half and K % 8 == 0 and K <= 128 and short


def _dense(segments_BT, causal, window) -> bool:
    """cuDNN knows a causal limit and a window to the left; all else needs a T x T mask."""
    return segments_BT is not None or (window is not None and not causal)


def cudnn_attention(q_BTHK, k_BTGK, v_BTGK, segments_BT, causal, window, scale) -> Array:
    """cuDNN flash attention. Causal limits and windows skip work; packed segments become a dense mask."""
    if not _dense(segments_BT, causal, window):
        local = None if window is None else (window - 1, 0)
        return jax.nn.dot_product_attention(
            q_BTHK, k_BTGK, v_BTGK, scale=scale, is_causal=causal, local_window_size=local, implementation="cudnn"
        )
    index_1T = jnp.arange(q_BTHK.shape[1])[None]
    mask_BTT = masks.visible(index_1T, index_1T, segments_BT, segments_BT, causal=causal, window=window)
    return jax.nn.dot_product_attention(
        q_BTHK, k_BTGK, v_BTGK, mask=mask_BTT[:, None], scale=scale, implementation="cudnn"
    )


def splash_takes(q_BTHK: Array, k_BTGK: Array) -> bool:
    """Whether splash computes this: whole blocks of 128 positions."""
    return q_BTHK.shape[1] % 128 == 0 and q_BTHK.shape[1] >= 128


@functools.lru_cache(maxsize=64)
def _splash(T: int, H: int, causal: bool, window: int | None, interpret: bool):
    # The mask is walked in Python (35 s at T = 131072): once per shape, not once per trace.
    block = next(b for b in (512, 256, 128) if T % b == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    sizes: dict[str, Any] = {f"block_{name}": block for name in names}
    if window is not None:
        one = mask.LocalMask((T, T), (window - 1, 0 if causal else window - 1), 0)
    else:
        one = mask.CausalMask((T, T)) if causal else mask.FullMask((T, T))
    with jax.ensure_compile_time_eval():
        return kernel.make_splash_mha(
            mask.MultiHeadMask([one] * H),
            head_shards=1,
            q_seq_shards=1,
            block_sizes=kernel.BlockSizes(**sizes),
            interpret=interpret,
        )


def splash_attention(q_BTHK, k_BTGK, v_BTGK, segments_BT, causal, window, scale, interpret=False) -> Array:
    """Pallas splash attention, one kernel per device over its own rows and heads."""

    def local(q_BHTK, k_BGTK, v_BGTK, segments_BT):
        H, T = q_BHTK.shape[1:3]
        splash = _splash(T, H, causal, window, interpret)
        ids = None if segments_BT is None else kernel.SegmentIds(segments_BT, segments_BT)
        return jax.vmap(splash)(q_BHTK * np.asarray(scale, q_BHTK.dtype), k_BGTK, v_BGTK, ids)

    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q_BTHK, k_BTGK, v_BTGK))
    heads, rows = ("batch", "heads", None, None), ("batch", None)
    o_BHTK = sharding.per_device(local, [heads] * 3 + [rows], heads, q, k, v, segments_BT, kernel=True)
    return o_BHTK.transpose(0, 2, 1, 3)
