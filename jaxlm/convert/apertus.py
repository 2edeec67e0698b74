"""Apertus (Swiss AI 2025, arXiv:2509.14233): Llama with normed queries and keys, and xIELU without a gate."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import same
from jaxlm.convert.usual import ACTIVATIONS, ATTENTION, IGNORED, MLP, TOP, attention, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, QKNormConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"apertus": "ApertusForCausalLM"}
STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 12_000_000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
DEFAULTS = {"max_position_embeddings": 65_536}
NAMES = (
    TOP
    | ATTENTION
    | MLP
    | {
        "model.layers.{}.mlp.act_fn.alpha_p": same("ffn.alpha_p"),
        "model.layers.{}.mlp.act_fn.alpha_n": same("ffn.alpha_n"),
        "model.layers.{}.attention_layernorm.weight": same("norm1.scale"),
        "model.layers.{}.feedforward_layernorm.weight": same("norm2.scale"),
    }
)
IGNORED = (*IGNORED, "*.act_fn.beta", "*.act_fn.eps")


def config(c: Fields) -> LMConfig:
    if c.get("rope_parameters", "rope_scaling") is None:
        c = Fields(c.values | {"rope_parameters": STRETCHED}, c.where)
    bias, before = c.bool("attention_bias", default=False), norm(c, 1e-5)
    act = c.one_of("hidden_act", among=ACTIVATIONS | {"xielu": "xielu"}, default="xielu")
    mixer = attention(c, rope=rope.read(c, base=12e6), qk_norm=QKNormConfig(before), bias=bias, bias_out=bias)
    return lm(c, [BlockConfig(mixer, mlp(c, activation=act, gated=False), before)] * layers(c), norm=before)
