"""Tiny models of every kind that decoding serves, and what they say without a cache."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.axes import Array, Params
from jaxlm.models import LM, LMConfig
from jaxlm.nn import (
    AlibiConfig,
    AttentionConfig,
    BlockConfig,
    BucketsConfig,
    DifferentialConfig,
    LayerNormConfig,
    LayersConfig,
    LearnedConfig,
    LinearAttentionConfig,
    MLAConfig,
    MLPConfig,
    MoEConfig,
    ParallelConfig,
    QKNormConfig,
    RMSNormConfig,
    RopeConfig,
    SinusoidalConfig,
    TemperatureConfig,
)
from jaxlm.ops.rope import DynamicNTK, LongRope, Scaling, Unscaled, Yarn
from tests.weights import weights

V, D = 32, 16


def block(G: int, window: int | None = None, rope: Scaling | bool = True, **more: Any) -> BlockConfig:
    """`rope` may be how rotations are scaled; what BlockConfig knows goes there, all else to the mixer."""
    scaling = Unscaled() if isinstance(rope, bool) else rope
    outside = {name: more.pop(name) for name in ("norm", "norm_out") if name in more}
    ffn = more.pop("ffn", MLPConfig(F=16))
    attention = AttentionConfig(
        H=4, K=8, G=G, window=window, rope=RopeConfig(scaling=scaling) if rope else None, **more
    )
    return BlockConfig(attention, ffn, **outside)


def lm(*groups: tuple[int, tuple[BlockConfig, ...]], **config: Any) -> LMConfig:
    return LMConfig(V=V, D=D, layers=tuple(LayersConfig(blocks, n) for n, blocks in groups), **config)


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
    # groups of mixed periods; windows shorter than a prompt and than a continuation
    "linear": lm((2, (BlockConfig(LinearAttentionConfig(H=4, K=8), MLPConfig(F=16)),))),  # a state of one size
    "windows": lm((2, (block(2, 5), block(4, rope=False))), (1, (block(2, 12),))),
}

RMS, MLP = RMSNormConfig(), MLPConfig(F=16)
FAMILIES = {  # what families of models add to these
    "alibi": lm((2, (block(2, rope=False, position_bias=AlibiConfig(), scale_by_layer=True),)), embed_norm=RMS),
    "buckets": lm((1, (block(4, rope=False, position_bias=BucketsConfig(8, 20), scale=1.0),))),
    "gemma": lm(  # norms of queries and keys; sandwiches; caps
        (1, (block(2, 5, softcap=2.0, qk_norm=QKNormConfig(RMS), norm_out=RMS), block(2, softcap=2.0, norm_out=RMS))),
        **{"embed_scale": 2.0, "softcap": 3.0},
    ),
    "gpt-oss": lm(  # sinks, some in a ring; a stretched rotation; experts
        (2, (block(2, 7, sinks=True, ffn=MoEConfig(F=8, E=4, top_k=2)), block(2, sinks=True, rope=Yarn(4.0, 8)))),
    ),
    "llama4": lm(  # chunks in a ring; a layer without positions whose queries grow
        (1, (block(2, chunk=6, qk_norm=QKNormConfig(RMS, after_rope=True)),) * 3),
        (1, (block(2, rope=False, attn_temperature=TemperatureConfig(0.5, 4.0)),)),
    ),
    "olmo2": lm((2, (block(4, qk_norm=QKNormConfig(RMS, joint=True), clip_qkv=1.0, norm=None, norm_out=RMS),))),
    "parallel": lm(
        (2, (ParallelConfig(AttentionConfig(H=4, K=8, rope=RopeConfig(fraction=0.25)), MLP, shared=False),)),
        (1, (ParallelConfig(AttentionConfig(H=4, K=8, G=1), MLP),)),
    ),
    "differential": lm((2, (BlockConfig(DifferentialConfig(H=4, K=8, G=2), MLP),) * 2)),
    "latent": lm(
        (1, (BlockConfig(MLAConfig(H=4, K=8, R=4, J=6, L=8), MLP),)),
        (2, (BlockConfig(MLAConfig(H=4, K=8, R=4, J=6, L=8, query_L=8), MoEConfig(F=8, E=4, top_k=2, shared=1)),)),
    ),
}
# Rotations that depend on the length of the text by then: caches hold only as long as those stay.
DYNAMIC = {
    "longrope": lm((2, (block(2, rope=LongRope((1.0, 1.1, 1.2, 1.3), (2.0, 3.0, 5.0, 8.0), 20, 4.0)),))),
    "dynamic ntk": lm((2, (block(2, rope=DynamicNTK(4.0, 12)),))),
    "latent dynamic": lm(
        (2, (BlockConfig(MLAConfig(H=4, K=8, R=4, J=6, L=8, rope=RopeConfig(scaling=DynamicNTK(4.0, 12))), MLP),)),
    ),
}
MODELS |= FAMILIES


@functools.cache
def params(name: str) -> Params:
    """Large enough that every token leaves its mark on those after it."""
    return jax.tree.map(lambda x: 1.5 * x, weights(LM((MODELS | DYNAMIC)[name]), jnp.zeros((1, 1), jnp.int32)))


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
