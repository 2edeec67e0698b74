"""Cohere's Command R (cohere) and Command R7B and A (cohere2): both branches read one norm, logits are scaled; the
second has a global layer without positions after three local ones."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.usual import ATTENTION, IGNORED, MLP, NORMS, TOP, attention, layer_types, layers, lm, mlp
from jaxlm.models import LMConfig
from jaxlm.nn import LayerNormConfig, ParallelConfig, QKNormConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"cohere": "CohereForCausalLM", "cohere2": "Cohere2ForCausalLM"}
DEFAULTS = {"max_position_embeddings": 8_192}

NAMES = TOP | ATTENTION | MLP | NORMS


def config(c: Fields) -> LMConfig:
    second = c.str("model_type") == "cohere2"
    norm = LayerNormConfig(c.float("layer_norm_eps", default=1e-5), bias=False)
    normed = None if second or not c.bool("use_qk_norm", default=False) else QKNormConfig(norm, per_head=True)
    bias = c.bool("attention_bias", default=False)
    every, local = c.size("sliding_window_pattern", default=4), [False] * layers(c)
    if second:
        local = layer_types(c, [(i + 1) % every != 0 for i in range(layers(c))])
    window = c.size("sliding_window", default=4096) if second else None

    base = 10_000.0 if second else 500_000.0

    def block(local: bool) -> ParallelConfig:
        mixer = attention(
            c,
            rope=rope.read(c, base=base, interleaved=True) if local or not second else None,
            window=window if local else None,
            qk_norm=normed,
            bias=bias,
            bias_out=bias,
        )
        return ParallelConfig(mixer, mlp(c), norm, shared=True)

    return lm(
        c,
        [block(one) for one in local],
        norm=norm,
        tied=c.bool("tie_word_embeddings", default=True),
        logit_scale=c.float("logit_scale", default=0.0625),
    )
