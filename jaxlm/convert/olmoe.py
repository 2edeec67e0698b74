"""OLMoE (arXiv:2409.02060) and FlexOlmo (arXiv:2507.07024): queries and keys normed over all heads, a mixture in every
layer; the second norms what branches give, not what they read."""

from jaxlm.convert import olmo2, rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.mixtures import EXPERTS
from jaxlm.convert.usual import IGNORED, NORMS, activation, attention, layers, lm, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, MoEConfig, QKNormConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "config", "names"]

MODEL_TYPES = {"olmoe": "OlmoeForCausalLM", "flex_olmo": "FlexOlmoForCausalLM"}
DEFAULTS = {"max_position_embeddings": 4_096}


def names(config: LMConfig) -> dict:
    block = config.layers[0].blocks[0]
    return olmo2.NAMES | EXPERTS | (NORMS if isinstance(block, BlockConfig) and block.norm else {})


def config(c: Fields) -> LMConfig:
    flex, bias = c.str("model_type") == "flex_olmo", c.bool("attention_bias", default=False)
    if c.positive("clip_qkv", default=None) is not None:
        raise c.error("clip_qkv", "behind the norms is not supported: the published files have none")
    one = norm(c, 1e-6 if flex else 1e-5)
    mixer = attention(
        c,
        rope=rope.read(c, base=5e5 if flex else 1e4),
        qk_norm=QKNormConfig(one, joint=True),
        bias=bias,
        bias_out=bias,
    )
    experts = MoEConfig(
        E=c.size("num_experts", "num_local_experts", default=7 if flex else 64),
        top_k=c.size("num_experts_per_tok", default=5 if flex else 8),
        F=c.size("intermediate_size"),
        activation=activation(c, "hidden_act", "silu"),
        norm_topk_prob=c.bool("norm_topk_prob", default=False),
    )
    block = BlockConfig(mixer, experts, None, norm_out=one) if flex else BlockConfig(mixer, experts, one)
    return lm(c, [block] * layers(c), norm=one)
