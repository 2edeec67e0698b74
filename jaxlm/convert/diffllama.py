"""DiffLlama (Ye et al. 2024, arXiv:2410.05258): Llama with differential attention."""

import dataclasses

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import same
from jaxlm.convert.usual import IGNORED, attention, layers, lm, mlp, norm
from jaxlm.convert.usual import NAMES as USUAL
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, DifferentialConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"diffllama": "DiffLlamaForCausalLM"}
DEFAULTS = {"max_position_embeddings": 2_048}

NAMES = USUAL | {
    f"model.layers.{{}}.self_attn.lambda_{name}": same(f"mixer.lambda_{name}") for name in ("q1", "k1", "q2", "k2")
}


def config(c: Fields) -> LMConfig:
    bias = c.bool("attention_bias", default=False)
    usual = attention(c, rope=rope.read(c), bias=bias, bias_out=bias)
    fields = {field.name: getattr(usual, field.name) for field in dataclasses.fields(usual)}
    deviation = c.float("lambda_std_dev", default=0.1)
    mixer = DifferentialConfig(**fields, eps=norm(c, 1e-5).eps, deviation=deviation)
    return lm(c, [BlockConfig(mixer, mlp(c), norm(c, 1e-5))] * layers(c), norm=norm(c, 1e-5))
