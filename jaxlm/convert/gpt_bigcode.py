"""StarCoder and SantaCoder (arXiv:2305.06161): GPT-2 with one key head for all, its matrices stored the usual way."""

import dataclasses

from jaxlm.convert import gpt2
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import flat, linear
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, group_layers

__all__ = ["IGNORED", "MODEL_TYPES", "NAMES", "SPELLINGS", "config"]

MODEL_TYPES = {"gpt_bigcode": "GPTBigCodeForCausalLM"}
SPELLINGS, IGNORED = gpt2.SPELLINGS, gpt2.IGNORED
NAMES = gpt2.NAMES | {
    "transformer.h.{}.attn.c_attn.weight": linear("mixer.q", "mixer.k", "mixer.v", by="heads"),
    "transformer.h.{}.attn.c_attn.bias": flat("mixer.q_bias", "mixer.k_bias", "mixer.v_bias", by="heads"),
    "transformer.h.{}.attn.c_proj.weight": linear("mixer.o"),
    "transformer.h.{}.mlp.c_fc.weight": linear("ffn.up"),
    "transformer.h.{}.mlp.c_proj.weight": linear("ffn.down"),
}


def config(c: Fields) -> LMConfig:
    said = {"activation_function": c.str("activation_function", default="gelu_pytorch_tanh")}
    base = gpt2.config(c.over(Fields(said)))
    block = base.layers[0].blocks[0]
    assert isinstance(block, BlockConfig)
    G = 1 if c.bool("multi_query", default=True) else None
    block = dataclasses.replace(block, mixer=dataclasses.replace(block.mixer, G=G))
    return dataclasses.replace(base, layers=group_layers([block] * base.depth))
