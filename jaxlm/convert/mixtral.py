"""Mixtral (Jiang et al. 2024, arXiv:2401.04088): Mistral with eight experts, two a token."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import linear
from jaxlm.convert.usual import ATTENTION, IGNORED, NORMS, TOP, activation, attention, layers, lm, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, MoEConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"mixtral": "MixtralForCausalLM"}
DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 131_072}

NAMES = (
    TOP
    | ATTENTION
    | NORMS
    | {
        "model.layers.{}.block_sparse_moe.gate.weight": linear("ffn.router"),
        "model.layers.{}.block_sparse_moe.experts.{e}.w1.weight": linear("ffn.gate"),
        "model.layers.{}.block_sparse_moe.experts.{e}.w3.weight": linear("ffn.up"),
        "model.layers.{}.block_sparse_moe.experts.{e}.w2.weight": linear("ffn.down"),
    }
)


def config(c: Fields) -> LMConfig:
    window = c.size("sliding_window", default=None)
    mixer = attention(c, rope=rope.read(c, base=1_000_000.0), window=window)
    experts = MoEConfig(
        E=c.size("num_local_experts", "num_experts", default=8),
        top_k=c.size("num_experts_per_tok", default=2),
        F=c.size("intermediate_size"),
        activation=activation(c, "hidden_act", "silu"),
        norm_topk_prob=True,
    )
    return lm(c, [BlockConfig(mixer, experts, norm(c, 1e-5))] * layers(c), norm=norm(c, 1e-5))
