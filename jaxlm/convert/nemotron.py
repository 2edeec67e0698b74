"""Nemotron-4 and Minitron (arXiv:2402.16819, arXiv:2407.14679): layer norms about one, squared ReLU without a gate,
half of each head rotated."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.usual import IGNORED, NAMES, activation, attention, layer_norm, layers, lm, mlp, with_bias
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"nemotron": "NemotronForCausalLM"}
DEFAULTS = {"max_position_embeddings": 4_096}
NAMES = with_bias(NAMES, "norm", "norm1", "norm2")


def config(c: Fields) -> LMConfig:
    bias, norm = c.bool("attention_bias", default=False), layer_norm(c, "norm_eps", zero_centered=True)
    mixer = attention(c, rope=rope.read(c, fraction=0.5), bias=bias, bias_out=bias)
    act, more = activation(c, "hidden_act", "relu2"), c.bool("mlp_bias", default=False)
    block = BlockConfig(mixer, mlp(c, activation=act, gated=False, bias=more), norm)
    return lm(c, [block] * layers(c), norm=norm)
