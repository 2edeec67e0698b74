"""Gemma 3 (arXiv:2503.19786), its text model: five local layers to a global one, with rotary positions of their own.

Norms of queries and keys came in place of capped scores: `attn_logit_softcapping` is in the files, but without effect.
"""

import math

from jaxlm.convert import rope, usual
from jaxlm.convert.fields import Fields
from jaxlm.convert.gemma2 import NAMES
from jaxlm.convert.usual import activation, attention, layer_types, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, QKNormConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "SPELLINGS", "WRAPPERS", "config"]

MODEL_TYPES = {"gemma3_text": "Gemma3ForCausalLM"}
DEFAULTS = {  # the files of the models that also see say little more of the text than its width and depth
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131_072,
}
WRAPPERS = ("gemma3",)
SPELLINGS = usual.WRAPPED
IGNORED = usual.IGNORED + usual.EYES


def config(c: Fields) -> LMConfig:
    window = c.size("sliding_window", default=4096)
    causal = not c.bool("use_bidirectional_attention", default=False)
    window = window if causal else window // 2 + 1
    bias = c.bool("attention_bias", default=False)
    around = norm(c, zero_centered=True)
    ffn = mlp(c, activation=activation(c, "hidden_activation", "gelu_pytorch_tanh"))

    def block(local: bool) -> BlockConfig:
        mixer = attention(
            c,
            K=c.size("head_dim", default=256),
            rope=rope.by_kind(c, local, 1_000_000.0, 10_000.0, "rope_local_base_freq"),
            causal=causal,
            window=window if local else None,
            scale=c.positive("query_pre_attn_scalar", default=256.0) ** -0.5,
            qk_norm=QKNormConfig(around),
            bias=bias,
            bias_out=bias,
        )
        return BlockConfig(mixer, ffn, around, norm_out=around)

    every = c.size("sliding_window_pattern", default=6)
    return lm(
        c,
        [block(local) for local in layer_types(c, [(i + 1) % every != 0 for i in range(layers(c))])],
        norm=around,
        tied=c.bool("tie_word_embeddings", default=True),
        embed_scale=math.sqrt(c.size("hidden_size")),
        softcap=c.float("final_logit_softcapping", default=None),
    )
