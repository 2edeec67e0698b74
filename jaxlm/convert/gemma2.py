"""Gemma 2 (arXiv:2408.00118): norms around each branch, local and global layers by turns, capped scores and logits."""

import math

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import same
from jaxlm.convert.usual import (
    ATTENTION,
    IGNORED,
    MLP,
    TOP,
    activation,
    attention,
    layer_types,
    layers,
    lm,
    mlp,
    norm,
)
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"gemma2": "Gemma2ForCausalLM"}
DEFAULTS = {
    "num_key_value_heads": 4,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "max_position_embeddings": 8_192,
}

NAMES = (
    TOP
    | ATTENTION
    | MLP
    | {
        "model.layers.{}.input_layernorm.weight": same("norm1.scale"),
        "model.layers.{}.post_attention_layernorm.weight": same("norm1_out.scale"),
        "model.layers.{}.pre_feedforward_layernorm.weight": same("norm2.scale"),
        "model.layers.{}.post_feedforward_layernorm.weight": same("norm2_out.scale"),
    }
)


def config(c: Fields) -> LMConfig:
    if c.bool("use_bidirectional_attention", default=False):
        raise c.error("use_bidirectional_attention", "is true: a model that sees what is to come is no language model")
    window = c.size("sliding_window", default=4096)
    bias = c.bool("attention_bias", default=False)
    around = norm(c, zero_centered=True)
    ffn = mlp(c, activation=activation(c, "hidden_activation", "gelu_pytorch_tanh"))

    def block(local: bool) -> BlockConfig:
        mixer = attention(
            c,
            K=c.size("head_dim", default=256),
            rope=rope.read(c),
            window=window if local else None,
            scale=c.positive("query_pre_attn_scalar", default=256.0) ** -0.5,
            softcap=c.float("attn_logit_softcapping", default=None),
            bias=bias,
            bias_out=bias,
        )
        return BlockConfig(mixer, ffn, around, norm_out=around)

    return lm(
        c,
        [block(local) for local in layer_types(c, [(i + 1) % 2 != 0 for i in range(layers(c))])],
        norm=around,
        tied=c.bool("tie_word_embeddings", default=True),
        embed_scale=math.sqrt(c.size("hidden_size")),
        softcap=c.float("final_logit_softcapping", default=None),
    )
