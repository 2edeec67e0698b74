"""SmolLM3 (Hugging Face 2025): Llama in which every fourth layer has no positions (arXiv:2501.18795)."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.usual import IGNORED, NAMES, attention, flags, layer_types, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"smollm3": "SmolLM3ForCausalLM"}
DEFAULTS = {"num_key_value_heads": 4, "max_position_embeddings": 32_768}


def config(c: Fields) -> LMConfig:
    every, N = c.size("no_rope_layer_interval", default=4), layers(c)
    rotary = flags(c, "no_rope_layers", [(i + 1) % every != 0 for i in range(N)])  # 1 means that it has them
    window, used = c.size("sliding_window", default=None), c.bool("use_sliding_window", default=False)
    local = layer_types(c, [used and not rotates for rotates in rotary])  # which count whether it is used or not
    bias = c.bool("attention_bias", default=False)
    ffn = mlp(c, bias=c.bool("mlp_bias", default=False))
    blocks = [
        BlockConfig(
            attention(
                c,
                rope=rope.read(c, base=2_000_000.0) if rotary[i] else None,
                window=window if local[i] else None,
                bias=bias,
                bias_out=bias,
            ),
            ffn,
            norm(c),
        )
        for i in range(N)
    ]
    return lm(c, blocks, tied=c.bool("tie_word_embeddings", default=True))
