"""gpt-oss (OpenAI 2025, arXiv:2508.10925): sinks, biases everywhere, local and global layers, clamped experts."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import flat, linear, same
from jaxlm.convert.usual import ATTENTION, IGNORED, NORMS, TOP, attention, layer_types, layers, lm, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, MoEConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"gpt_oss": "GptOssForCausalLM"}
DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 131_072}

NAMES = (
    TOP
    | ATTENTION
    | NORMS
    | {
        "model.layers.{}.self_attn.sinks": same("mixer.sinks"),
        "model.layers.{}.mlp.router.weight": linear("ffn.router"),
        "model.layers.{}.mlp.router.bias": same("ffn.router_bias"),
        "model.layers.{}.mlp.experts.gate_up_proj": linear(
            "ffn.gate", "ffn.up", by="units", transposed=True, experts=True
        ),
        "model.layers.{}.mlp.experts.gate_up_proj_bias": flat("ffn.gate_bias", "ffn.up_bias", by="units", experts=True),
        "model.layers.{}.mlp.experts.down_proj": linear("ffn.down", transposed=True, experts=True),
        "model.layers.{}.mlp.experts.down_proj_bias": flat("ffn.down_bias", experts=True),
    }
)
YARN = {"rope_type": "yarn", "factor": 32.0, "truncate": False, "original_max_position_embeddings": 4096}


def config(c: Fields) -> LMConfig:
    bias = c.bool("attention_bias", default=True)
    window = c.size("sliding_window", default=128)
    if c.get("rope_parameters", "rope_scaling") is None:
        c = Fields(c.values | {"rope_scaling": YARN}, c.where)
    experts = MoEConfig(
        E=c.size("num_local_experts", "num_experts", default=128),
        top_k=c.size("num_experts_per_tok", "experts_per_token", default=4),
        F=c.size("intermediate_size"),
        bias=True,
        router_bias=True,
        limit=c.float("swiglu_limit", default=7.0),
        swish=c.float("swiglu_alpha", default=1.702),
    )

    def block(local: bool) -> BlockConfig:
        mixer = attention(
            c,
            K=c.size("head_dim", default=64),
            rope=rope.read(c, base=150_000.0),
            window=window if local else None,
            sinks=True,
            bias=bias,
            bias_out=bias,
        )
        return BlockConfig(mixer, experts, norm(c, 1e-5))

    local = layer_types(c, [i % 2 == 0 for i in range(layers(c))])
    return lm(c, [block(one) for one in local], norm=norm(c, 1e-5))
