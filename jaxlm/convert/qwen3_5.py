"""Qwen3.5 (Qwen 2026), its text models: Qwen3-Next with projections apart, dense or a mixture."""

from jaxlm.convert import qwen2_moe, qwen3_moe, qwen3_next, usual
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import beside, linear
from jaxlm.convert.qwen3_next import DELTA
from jaxlm.convert.usual import layers, mlp
from jaxlm.models import LMConfig

MODEL_TYPES = {"qwen3_5_text": "Qwen3_5ForCausalLM", "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM"}
WRAPPERS = ("qwen3_5", "qwen3_5_moe")
DEFAULTS = qwen3_next.DEFAULTS
SPELLINGS = usual.WRAPPED
IGNORED = (*qwen3_next.IGNORED, *usual.EYES, "*visual.*")
OWN = {name: rule for name, rule in qwen3_next.OWN.items() if "in_proj" not in name} | {
    f"{DELTA}.in_proj_qkv.weight": linear("mixer.q", "mixer.k", "mixer.v"),
    f"{DELTA}.in_proj_z.weight": linear("mixer.gate"),
    f"{DELTA}.in_proj_b.weight": linear("mixer.rate"),
    f"{DELTA}.in_proj_a.weight": linear("mixer.decay"),
}
NAMES = beside("mixer.a_log", OWN) | qwen2_moe.NAMES | qwen3_next.GATED


def config(c: Fields) -> LMConfig:
    ffn = mlp(c) if c.str("model_type") == "qwen3_5_text" else _experts(c)
    return qwen3_next.of(c, [ffn] * layers(c))


def _experts(c: Fields):
    wide = mlp(c, "shared_expert_intermediate_size")
    return qwen3_moe.experts(c, 256, 8, 512, True, shared=wide, shared_gate=True)
