"""Phi-3.5-MoE (arXiv:2404.14219): layer norms, biases of attention and logits, LongRoPE, and SparseMixer's router: the
best expert, then the best of the others, each weighed by a softmax over those that are near it."""

from jaxlm.convert import mixtral, rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import same
from jaxlm.convert.usual import IGNORED, activation, attention, layer_norm, layers, lm, with_bias
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, MoEConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"phimoe": "PhimoeForCausalLM"}
DEFAULTS = {"num_key_value_heads": 8, "original_max_position_embeddings": 4096, "max_position_embeddings": 131_072}
NAMES = with_bias(mixtral.NAMES, "norm", "norm1", "norm2") | {"lm_head.bias": same("head_bias")}


def config(c: Fields) -> LMConfig:
    if c.size("num_experts_per_tok", default=2) != 2:
        raise c.error("num_experts_per_tok", "must be 2: SparseMixer chooses the best and the second")
    norm, bias = layer_norm(c, "rms_norm_eps"), c.bool("attention_bias", default=False)
    experts = MoEConfig(
        E=c.size("num_local_experts", default=16),
        top_k=2,
        F=c.size("intermediate_size"),
        activation=activation(c, "hidden_act", "silu"),
        score="sparsemixer",
        norm_topk_prob=False,
        jitter=c.float("router_jitter_noise", default=0.01),
    )
    window = c.size("sliding_window", default=None)
    mixer = attention(c, rope=rope.read(c, base=1e6), window=window, bias=bias, bias_out=bias)
    block = BlockConfig(mixer, experts, norm)
    return lm(c, [block] * layers(c), norm=norm, head_bias=c.bool("lm_head_bias", default=False))
