"""Qwen1.5-MoE and Qwen2-57B (arXiv:2407.10671): Qwen2 with experts beside a shared one, which has a gate of its own."""

from jaxlm.convert import qwen2, qwen3_moe, rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.mixtures import shared
from jaxlm.convert.names import linear
from jaxlm.convert.usual import IGNORED, attention, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"qwen2_moe": "Qwen2MoeForCausalLM"}
DEFAULTS = {"num_key_value_heads": 16, "sliding_window": 4096, "max_position_embeddings": 32_768}
NAMES = (
    qwen3_moe.NAMES
    | shared("shared_expert")
    | {"model.layers.{}.mlp.shared_expert_gate.weight": linear("ffn.shared_gate")}
)


def config(c: Fields) -> LMConfig:
    wide = mlp(c, "shared_expert_intermediate_size")
    experts = qwen3_moe.experts(c, 60, 4, 1408, False, shared=wide, shared_gate=True)
    ffns = [experts if sparse else mlp(c) for sparse in qwen3_moe.sparse(c)]
    bias = c.bool("qkv_bias", default=True)
    mixers = [attention(c, rope=rope.read(c), window=window, bias=bias) for window in qwen2.windows(c)]
    assert len(mixers) == layers(c)
    return lm(c, [BlockConfig(mixer, ffn, norm(c)) for mixer, ffn in zip(mixers, ffns)])
