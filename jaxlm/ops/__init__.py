"""The mathematics: plain functions of arrays, no parameters."""

from jaxlm.ops.activations import ACTIVATIONS
from jaxlm.ops.attention import attention, attention_with_past, reference_attention
from jaxlm.ops.blockwise import blockwise_attention
from jaxlm.ops.dropout import dropout
from jaxlm.ops.embedding import lookup
from jaxlm.ops.masks import cache_slots, visible
from jaxlm.ops.norms import layer_norm, rms_norm
from jaxlm.ops.positions import rotate, sinusoidal

__all__ = [
    "ACTIVATIONS",
    "attention",
    "attention_with_past",
    "blockwise_attention",
    "cache_slots",
    "dropout",
    "layer_norm",
    "lookup",
    "reference_attention",
    "rms_norm",
    "rotate",
    "sinusoidal",
    "visible",
]
