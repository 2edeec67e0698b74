"""Mistral (Jiang et al. 2023, arXiv:2310.06825): Llama with a sliding window."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.usual import IGNORED, NAMES, attention, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"mistral": "MistralForCausalLM"}
DEFAULTS = {"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131_072}


def config(c: Fields) -> LMConfig:
    window = c.size("sliding_window", default=None)
    mixer = attention(c, rope=rope.read(c), window=window)
    return lm(c, [BlockConfig(mixer, mlp(c), norm(c))] * layers(c))
