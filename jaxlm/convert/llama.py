"""Llama 1 to 3.2 (Touvron et al. 2023, arXiv:2302.13971; arXiv:2407.21783): RMS norms, rotary positions, gated silu."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.usual import IGNORED, NAMES, attention, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"llama": "LlamaForCausalLM"}
DEFAULTS = {"max_position_embeddings": 2_048}


def config(c: Fields) -> LMConfig:
    bias = c.bool("attention_bias", default=False)
    mixer = attention(c, rope=rope.read(c), bias=bias, bias_out=bias)
    block = BlockConfig(mixer, mlp(c, bias=c.bool("mlp_bias", default=False)), norm(c))
    return lm(c, [block] * layers(c))
