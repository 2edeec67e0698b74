"""Qwen3 (arXiv:2505.09388): Llama with normed queries and keys."""

from jaxlm.convert import rope, usual
from jaxlm.convert.fields import Fields
from jaxlm.convert.qwen2 import windows
from jaxlm.convert.usual import attention, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, QKNormConfig

WRAPPERS = ("qwen3_vl",)
SPELLINGS = usual.WRAPPED
MODEL_TYPES = {"qwen3": "Qwen3ForCausalLM"}
NAMES, IGNORED = usual.NAMES, (*usual.IGNORED, "*visual.*")
DEFAULTS = {"head_dim": 128, "num_key_value_heads": 32, "sliding_window": 4096, "max_position_embeddings": 32_768}


def config(c: Fields) -> LMConfig:
    return lm(c, [BlockConfig(mixer(c, window), mlp(c), norm(c)) for window in windows(c)])


def mixer(c: Fields, window: int | None) -> AttentionConfig:
    bias = c.bool("attention_bias", default=False)
    return attention(
        c,
        rope=rope.read(c),
        window=window,
        qk_norm=QKNormConfig(norm(c)),
        bias=bias,
        bias_out=bias,
    )
