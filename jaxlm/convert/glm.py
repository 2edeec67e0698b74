"""GLM-4 (arXiv:2406.12793): Llama with half of each head rotated by neighbours, and joined feed-forward projections."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.usual import ATTENTION, FUSED_MLP, IGNORED, NORMS, TOP, attention, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config", "mixer"]

MODEL_TYPES = {"glm": "GlmForCausalLM"}
DEFAULTS = {"num_key_value_heads": 2, "max_position_embeddings": 131_072}

NAMES = TOP | ATTENTION | FUSED_MLP | NORMS


def config(c: Fields) -> LMConfig:
    return lm(c, [BlockConfig(mixer(c), mlp(c), norm(c, 1.5625e-7))] * layers(c), norm=norm(c, 1.5625e-7))


def mixer(c: Fields) -> AttentionConfig:
    return attention(
        c,
        K=c.size("head_dim", default=128),
        rope=rope.read(c, fraction=0.5, interleaved=True),
        bias=c.bool("attention_bias", default=True),
    )
