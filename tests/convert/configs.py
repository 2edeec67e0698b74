"""What config.json files of every family say, as little as they can, and the models that are read from them."""

from operator import attrgetter
from typing import Any

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig

USUAL = {
    "vocab_size": 20,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "intermediate_size": 12,
    "max_position_embeddings": 64,
}
FOUR = {"head_dim": 4, "num_key_value_heads": 8}
EXPERTS = {"n_routed_experts": 16, "moe_intermediate_size": 6}
ALSO = {
    "deepseek_v2": EXPERTS,
    "deepseek_v3": EXPERTS,
    "kimi_k2": EXPERTS,
    "gpt_neox": {"num_attention_heads": 4},
    "llama4_text": {"intermediate_size_mlp": 10},
    "mpt": {"d_model": 32, "n_heads": 8, "n_layers": 4},
    "opt": {"ffn_dim": 12},
    "qwen2": {"num_key_value_heads": 8},
    "qwen3": FOUR,
}


def read(kind: str, said: dict[str, Any]) -> LMConfig:
    return lm_config(USUAL | ALSO.get(kind, {}) | {"model_type": kind} | said)


def seen(config: LMConfig, path: str) -> list[Any]:
    """What each layer has at `path`, or the model where it begins with a dot."""
    if path.startswith("."):
        return [attrgetter(path[1:])(config)]
    return [attrgetter(path)(b) for s in config.layers for _ in range(s.repeat) for b in s.blocks]
