"""Qwen3-MoE (arXiv:2505.09388): Qwen3 with experts in some layers or all."""

from jaxlm.convert import qwen2, qwen3
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import linear
from jaxlm.convert.usual import IGNORED, activation, layers, lm, mlp, norm
from jaxlm.convert.usual import NAMES as USUAL
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, MoEConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"qwen3_moe": "Qwen3MoeForCausalLM"}
DEFAULTS = {"num_key_value_heads": 4, "sliding_window": 4096, "max_position_embeddings": 32_768}

NAMES = USUAL | {
    "model.layers.{}.mlp.gate.weight": linear("ffn.router"),
    "model.layers.{}.mlp.experts.{e}.gate_proj.weight": linear("ffn.gate"),
    "model.layers.{}.mlp.experts.{e}.up_proj.weight": linear("ffn.up"),
    "model.layers.{}.mlp.experts.{e}.down_proj.weight": linear("ffn.down"),
}


def config(c: Fields) -> LMConfig:
    experts = MoEConfig(
        E=c.size("num_experts", "num_local_experts", default=128),
        top_k=c.size("num_experts_per_tok", default=8),
        F=c.size("moe_intermediate_size", default=768),
        activation=activation(c, "hidden_act", "silu"),
        norm_topk_prob=c.bool("norm_topk_prob", default=False),
    )
    dense, every = c.list("mlp_only_layers", default=[]), c.size("decoder_sparse_step", default=1)
    sparse = [i not in dense and (i + 1) % every == 0 for i in range(layers(c))]
    mixer = qwen3.mixer(c, qwen2.window(c))
    return lm(c, [BlockConfig(mixer, experts if sparse_one else mlp(c), norm(c)) for sparse_one in sparse])
