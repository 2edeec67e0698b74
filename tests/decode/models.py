"""Tiny models of every kind that decoding serves, and what they say without a cache."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.axes import Array, Params
from jaxlm.models import LM, LMConfig
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    LayerNormConfig,
    LearnedConfig,
    MLPConfig,
    RopeConfig,
    SegmentConfig,
    SinusoidalConfig,
)
from tests.weights import weights

V, D = 32, 16


def block(G: int, window: int | None = None, rope: bool = True, **mixer: Any) -> BlockConfig:
    attention = AttentionConfig(H=4, K=8, G=G, window=window, rope=RopeConfig() if rope else None, **mixer)
    return BlockConfig(attention, MLPConfig(F=16))


def lm(*segments: tuple[int, tuple[BlockConfig, ...]], **config: Any) -> LMConfig:
    return LMConfig(V=V, D=D, segments=tuple(SegmentConfig(blocks, n) for n, blocks in segments), **config)


MODELS = {
    "rope": lm((2, (block(2),))),  # grouped queries
    "learned": lm(  # few positions; multi-head; a head of its own
        (2, (block(4, rope=False, bias=True, bias_out=True),)),
        positions=LearnedConfig(40),
        norm=LayerNormConfig(),
        tied=False,
    ),
    # multi-query; a window of the token itself
    "sinusoidal": lm((1, (block(1, rope=False), block(1, 1, rope=False))), positions=SinusoidalConfig()),
    "none": lm((2, (block(4, 100, rope=False),))),  # a window longer than any text
    # segments of mixed periods; windows shorter than a prompt and than a continuation
    "windows": lm((2, (block(2, 5), block(4, rope=False))), (1, (block(2, 12),))),
}


@functools.cache
def params(name: str) -> Params:
    """Large enough that every token leaves its mark on those after it."""
    return jax.tree.map(lambda x: 1.5 * x, weights(LM(MODELS[name]), jnp.zeros((1, 1), jnp.int32)))


def full_logits(name: str, tokens_BT: Any, mask_BT: Any) -> np.ndarray:
    """(B, T, V) of the whole texts at once."""
    return np.asarray(_full(MODELS[name], params(name), tokens_BT, mask_BT))


@functools.partial(jax.jit, static_argnums=0)
def _full(config: LMConfig, params: Params, tokens_BT: Array, mask_BT: Array) -> Array:
    positions_BT = jnp.maximum(jnp.cumsum(mask_BT, -1) - 1, 0)
    return LM(config).apply({"params": params}, tokens_BT, positions_BT, mask_BT)


def prompts(T: int, *starts: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens and their mask: row b is padding before starts[b]."""
    mask_BT = (np.arange(T)[None] >= np.array(starts)[:, None]).astype(np.int32)
    return np.random.default_rng(seed).integers(0, V, mask_BT.shape).astype(np.int32), mask_BT
