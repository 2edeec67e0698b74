"""dots.llm1 (arXiv:2506.05767): Qwen3's attention and DeepSeek V3's mixture."""

from jaxlm.convert import glm4_moe, rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.glm4_moe import IGNORED, NAMES
from jaxlm.convert.mixtures import choose, sigmoid
from jaxlm.convert.usual import attention, layer_types, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, QKNormConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"dots1": "Dots1ForCausalLM"}
DEFAULTS = glm4_moe.DEFAULTS | {"num_key_value_heads": 32, "max_position_embeddings": 2_048}


def config(c: Fields) -> LMConfig:
    bias, window = c.bool("attention_bias", default=False), c.size("sliding_window", default=4096)
    first = c.int("max_window_layers", default=62)
    experts = sigmoid(c, c.size("n_routed_experts"), c.size("moe_intermediate_size", default=1408), 8, 0, 1.0)

    def mixer(local: bool):
        normed = QKNormConfig(norm(c))
        return attention(
            c, rope=rope.read(c), window=window if local else None, qk_norm=normed, bias=bias, bias_out=bias
        )

    used = c.get("sliding_window") is not None
    local = layer_types(c, [used and i >= first for i in range(layers(c))])
    ffns = choose(c, mlp(c), experts, 0)
    return lm(c, [BlockConfig(mixer(one), ffn, norm(c)) for one, ffn in zip(local, ffns)])
