"""Arcee's AFM (2025): Llama with an ungated feed-forward of squared ReLU (arXiv:2109.08668)."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.usual import IGNORED, NAMES, activation, attention, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"arcee": "ArceeForCausalLM"}
DEFAULTS = {"max_position_embeddings": 4_096}


def config(c: Fields) -> LMConfig:
    bias, before = c.bool("attention_bias", default=False), norm(c, 1e-5)
    ffn = mlp(c, activation=activation(c, "hidden_act", "relu2"), gated=False, bias=c.bool("mlp_bias", default=False))
    block = BlockConfig(attention(c, rope=rope.read(c), bias=bias, bias_out=bias), ffn, before)
    return lm(c, [block] * layers(c), norm=before)
