"""Qwen3-MoE (arXiv:2505.09388): Qwen3 with experts in some layers or all."""

from typing import Any

from jaxlm.convert import qwen2, qwen3, usual
from jaxlm.convert.fields import Fields
from jaxlm.convert.mixtures import EXPERTS
from jaxlm.convert.usual import NAMES as USUAL
from jaxlm.convert.usual import activation, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, MoEConfig

WRAPPERS = ("qwen3_vl_moe",)
SPELLINGS = usual.WRAPPED
MODEL_TYPES = {"qwen3_moe": "Qwen3MoeForCausalLM"}
IGNORED = (*usual.IGNORED, "*visual.*")
DEFAULTS = {"num_key_value_heads": 4, "sliding_window": 4096, "max_position_embeddings": 32_768}

NAMES = USUAL | EXPERTS


def config(c: Fields) -> LMConfig:
    mixer, ffn = qwen3.mixer(c, qwen2.window(c)), experts(c, 128, 8, 768, False)
    return lm(c, [BlockConfig(mixer, ffn if one else mlp(c), norm(c)) for one in sparse(c)])


def experts(c: Fields, E: int, A: int, F: int, normed: bool, **changes: Any) -> MoEConfig:
    """The mixture, where a family's files leave out E, A, F or whether the weights are normed."""
    return MoEConfig(
        E=c.size("num_experts", "num_local_experts", default=E),
        top_k=c.size("num_experts_per_tok", default=A),
        F=c.size("moe_intermediate_size", default=F),
        activation=activation(c, "hidden_act", "silu"),
        norm_topk_prob=c.bool("norm_topk_prob", default=normed),
        **changes,
    )


def sparse(c: Fields) -> list[bool]:
    """Which layers have experts."""
    dense, every = c.list("mlp_only_layers", default=[]), c.size("decoder_sparse_step", default=1)
    return [i not in dense and (i + 1) % every == 0 for i in range(layers(c))]
