"""Seed-OSS (ByteDance 2025): Llama with biases of q, k and v, and dropout of what branches give."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.usual import IGNORED, NAMES, attention, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"seed_oss": "SeedOssForCausalLM"}
DEFAULTS = {"num_key_value_heads": 8, "head_dim": 128, "attention_dropout": 0.1, "max_position_embeddings": 524_288}


def config(c: Fields) -> LMConfig:
    bias, bias_out = c.bool("attention_bias", default=True), c.bool("attention_out_bias", default=False)
    mixer = attention(c, rope=rope.read(c), bias=bias, bias_out=bias_out)
    ffn = mlp(c, bias=c.bool("mlp_bias", default=False))
    return lm(c, [BlockConfig(mixer, ffn, norm(c), dropout=c.float("residual_dropout", default=0.1))] * layers(c))
