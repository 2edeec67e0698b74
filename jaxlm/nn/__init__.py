"""Thin Linen modules: each owns the weights of one idea and calls `jaxlm.ops`."""

from jaxlm.nn.attention import Attention, AttentionConfig, RopeConfig
from jaxlm.nn.block import Block, BlockConfig
from jaxlm.nn.context import Context
from jaxlm.nn.embed import Embed, Learned, LearnedConfig, Sinusoidal, SinusoidalConfig
from jaxlm.nn.mlp import MLP, MLPConfig
from jaxlm.nn.norm import LayerNorm, LayerNormConfig, RMSNorm, RMSNormConfig
from jaxlm.nn.stack import SegmentConfig, Stack, stack, unstack

__all__ = [
    "MLP",
    "Attention",
    "AttentionConfig",
    "Block",
    "BlockConfig",
    "Context",
    "Embed",
    "LayerNorm",
    "LayerNormConfig",
    "Learned",
    "LearnedConfig",
    "MLPConfig",
    "RMSNorm",
    "RMSNormConfig",
    "RopeConfig",
    "SegmentConfig",
    "Sinusoidal",
    "SinusoidalConfig",
    "Stack",
    "stack",
    "unstack",
]
