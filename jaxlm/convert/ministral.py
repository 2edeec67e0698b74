"""Ministral (2024: local layers among global ones) and Ministral 3 (2025: YaRN, and queries that grow with their
position): Mistral otherwise."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.usual import IGNORED, NAMES, attention, layer_types, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, TemperatureConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"ministral": "MinistralForCausalLM", "ministral3": "Ministral3ForCausalLM"}
DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 32_768}
STRETCHED = {
    "rope_type": "yarn",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16_384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def config(c: Fields) -> LMConfig:
    third = c.str("model_type") == "ministral3"
    if third and c.get("rope_parameters", "rope_scaling") is None:
        c = Fields(c.values | {"rope_parameters": STRETCHED}, c.where)
    p = c.section("rope_parameters", "rope_scaling", default={})
    beta, tuned = p.float("llama_4_scaling_beta", default=None), None
    if third and beta is not None:
        tuned = TemperatureConfig(beta, p.positive("original_max_position_embeddings"), first=0)
    window = c.size("sliding_window", default=None if third else 4096)
    local = [window is not None] * layers(c) if third else layer_types(c, [window is not None] * layers(c))
    mixer = lambda local: attention(
        c,
        rope=rope.read(c, base=10_000.0),
        window=window if local else None,
        attn_temperature=tuned,
        **({"K": c.size("head_dim", default=128)} if third else {}),
    )
    eps = 1e-5 if third else 1e-6
    return lm(c, [BlockConfig(mixer(one), mlp(c), norm(c, eps)) for one in local], norm=norm(c, eps))
