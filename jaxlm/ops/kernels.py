"""Fused attention kernels of the accelerators, behind the signature of `blockwise.blockwise_attention`.

cuDNN's flash attention on NVIDIA GPUs comes with jax.nn; splash attention on TPUs with jax.experimental.pallas. Beside
each stands a function that says what it lacks for given arguments ("" when it computes exactly that).
"""

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as mask

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.ops.rule import Extras, Rule

CUDNN_DENSE_MASK = 4096  # what needs a T x T mask there goes blockwise when it is longer
TILE = 512  # positions of a tile of splash attention's scores
PARTS = 4  # of the queries' gradient that its one backward kernel may leave to be summed


def cudnn_lacks(q_BTHK: Array, k_BTGK: Array, v_BTGJ: Array, extras: Extras, rule: Rule) -> str:
    """cuDNN takes half precision and head widths that are a multiple of 8 up to 128."""
    T, K = q_BTHK.shape[1], q_BTHK.shape[3]
    lacking = {
        f"{q_BTHK.dtype} (it takes bfloat16 and float16)": q_BTHK.dtype not in (jnp.bfloat16, jnp.float16),
        f"a head width of {K} (it takes multiples of 8 up to 128)": K % 8 != 0 or K > 128,
        "values of another width than keys": v_BTGJ.shape[3] != K,
        "softcap": rule.softcap is not None,
        "bias_HZ": extras.bias_HZ is not None,
        "sinks_H": extras.sinks_H is not None,
        "dropout": rule.dropout > 0,
        f"segments, chunk or a window without causal beyond {CUDNN_DENSE_MASK} positions": (
            T > CUDNN_DENSE_MASK and _dense(extras, rule)
        ),
    }
    return next((what for what, lacks in lacking.items() if lacks), "")


def _dense(extras: Extras, rule: Rule) -> bool:
    """cuDNN knows a causal limit and a window to the left; all else needs a T x T mask."""
    return extras.segments_BT is not None or rule.chunk is not None or (rule.reach is not None and not rule.causal)


def cudnn_attention(q_BTHK: Array, k_BTGK: Array, v_BTGJ: Array, extras: Extras, rule: Rule) -> Array:
    """cuDNN flash attention, each device its own rows and heads. Causal limits and windows skip work; segments and
    chunks become a dense mask."""
    dense = _dense(extras, rule)

    def local(q_BTHK, k_BTGK, v_BTGJ, segments_BT, positions_BT):
        attend = functools.partial(
            jax.nn.dot_product_attention, q_BTHK, k_BTGK, v_BTGJ, scale=rule.scale, implementation="cudnn"
        )
        if not dense:
            return attend(is_causal=rule.causal, local_window_size=None if rule.reach is None else (rule.reach - 1, 0))
        index_1T, own = jnp.arange(q_BTHK.shape[1])[None], Extras(segments_BT, positions_BT)
        return attend(mask=rule.visible(index_1T, index_1T, own, own)[:, None])

    heads, rows = ("batch", None, "heads", None), ("batch", None)
    positions_BT = extras.positions_BT
    places = (None, None) if positions_BT is not None and positions_BT.shape[0] == 1 else rows
    given = q_BTHK, k_BTGK, v_BTGJ, extras.segments_BT, positions_BT
    return sharding.shard_map(local, [heads] * 3 + [rows, places], heads, *given, kernel=True)


def splash_lacks(q_BTHK: Array, k_BTGK: Array, v_BTGJ: Array, extras: Extras, rule: Rule) -> str:
    """Splash takes whole blocks of 128 positions."""
    T = q_BTHK.shape[1]
    lacking = {
        f"{T} positions (it takes multiples of 128)": T % 128 != 0,
        "bias_HZ": extras.bias_HZ is not None,
        "dropout": rule.dropout > 0,
    }
    return next((what for what, lacks in lacking.items() if lacks), "")


def splash_blocks(T: int, K: int, window: int | None) -> kernel.BlockSizes:
    """Blocks of T positions for heads of width K (the wider of keys and values), and one backward kernel or two.

    Larger blocks read keys and values less often and have fewer steps; but all of a block is computed that the mask
    leaves a part of, half a block more a row than causal attention needs: at most a quarter of the positions that are
    seen, or TILE. The programs of larger tiles, or of wider heads in them, take seconds longer to compile.

    One kernel computes scores once for all three gradients: five products instead of seven. It writes a gradient of the
    queries for every block of keys, to be summed: about the bytes that the second kernel would read, but as many times
    the queries' memory as there are blocks, at most PARTS, and for the blocks that a window skips too.
    """
    seen = T if window is None else min(T, window)
    fit = lambda most: next(b for b in (2048, 1024, 512, 256, 128) if T % b == 0 and b <= most)
    block, keys = (fit(min(most, max(TILE, seen // 4))) for most in (2 * TILE if K <= 128 else TILE, 4 * TILE))
    forward: dict[str, Any] = {"block_q": block, "block_kv": block, "block_kv_compute": fit(min(block, TILE))}
    if window is None and T // keys <= PARTS:
        both: dict[str, Any] = {
            "block_q_dkv": fit(TILE),
            "block_kv_dkv": keys,
            "block_kv_dkv_compute": fit(min(keys, TILE)),
        }
        return kernel.BlockSizes(**forward, **both, use_fused_bwd_kernel=True)
    names = ("q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    apart: dict[str, Any] = {f"block_{name}": fit(TILE) for name in names}
    return kernel.BlockSizes(**forward, **apart)


@functools.lru_cache(maxsize=64)
def _splash(T: int, H: int, K: int, causal: bool, window: int | None, softcap: float | None, interpret: bool):
    # The mask is walked in Python (35 s at T = 131072): once per shape, not once per trace.
    if window is not None:
        one = mask.LocalMask((T, T), (window - 1, 0 if causal else window - 1), 0)
    else:
        one = mask.CausalMask((T, T)) if causal else mask.FullMask((T, T))
    make = functools.partial(
        kernel.make_splash_mha,
        mask.MultiHeadMask([one] * H),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=splash_blocks(T, K, window),
        attn_logits_soft_cap=softcap,
        residual_checkpoint_name="attention",  # for rematerialisation, as in `blockwise`
        interpret=interpret,
    )
    # It computes with arrays. A thread of its own stands outside of the trace, and of a mesh that may not be here.
    with ThreadPoolExecutor(1) as thread:
        return jax.tree.map(np.asarray, thread.submit(make).result())


def splash_attention(
    q_BTHK: Array, k_BTGK: Array, v_BTGJ: Array, extras: Extras, rule: Rule, interpret: bool = False
) -> Array:
    """Pallas splash attention, one kernel per device over its own rows and heads."""

    def local(q_BHTK, k_BGTK, v_BGTJ, segments_BT, sinks_H):
        H, T, K = q_BHTK.shape[1:]
        splash = _splash(T, H, max(K, v_BGTJ.shape[3]), rule.causal, rule.reach, rule.softcap, interpret)
        ids = None if segments_BT is None else kernel.SegmentIds(segments_BT, segments_BT)
        one_row = lambda q, k, v, ids: splash(q, k, v, ids, sinks_H)
        return jax.vmap(one_row)(q_BHTK * np.asarray(rule.scale, q_BHTK.dtype), k_BGTK, v_BGTJ, ids)

    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q_BTHK, k_BTGK, v_BTGJ))
    heads, rows = ("batch", "heads", None, None), ("batch", None)
    given = q, k, v, _texts(q_BTHK, extras, rule), extras.sinks_H
    o_BHTJ = sharding.shard_map(local, [heads] * 3 + [rows, ("heads",)], heads, *given, kernel=True)
    return o_BHTJ.transpose(0, 2, 1, 3)


def _texts(q_BTHK: Array, extras: Extras, rule: Rule) -> Array | None:
    """Segments for splash, which knows no chunks counted from a text's start: every chunk of a text is one."""
    if rule.chunk is None:
        return extras.segments_BT
    B, T = q_BTHK.shape[:2]
    position_BT = jnp.arange(T)[None] if extras.positions_BT is None else extras.positions_BT
    segment_BT = jnp.zeros((B, T), jnp.int32) if extras.segments_BT is None else extras.segments_BT
    return segment_BT * (T // rule.chunk + 1) + position_BT // rule.chunk
