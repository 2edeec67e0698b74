"""Granite 3 (IBM 2024): Llama with factors on the embedding, the scores, the branches and the logits."""

from typing import Any

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.usual import IGNORED, NAMES, attention, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, MLPConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config", "mixer", "of"]

MODEL_TYPES = {"granite": "GraniteForCausalLM"}
DEFAULTS = {"max_position_embeddings": 2_048}


def config(c: Fields) -> LMConfig:
    return of(c, mlp(c, bias=c.bool("mlp_bias", default=False)))


def of(c: Fields, ffn: MLPConfig) -> LMConfig:
    """With this feed-forward in every layer."""
    block = BlockConfig(mixer(c), ffn, norm(c), scale=c.float("residual_multiplier", default=1.0))
    return lm(
        c,
        [block] * layers(c),
        embed_scale=c.float("embedding_multiplier", default=1.0),
        logit_scale=1 / c.positive("logits_scaling", default=1.0),
    )


def mixer(c: Fields, **changes: Any) -> AttentionConfig:
    bias = c.bool("attention_bias", default=False)
    usual = {
        "rope": rope.read(c),
        "scale": c.float("attention_multiplier", default=1.0),
        "bias": bias,
        "bias_out": bias,
    }
    return attention(c, **usual | changes)
