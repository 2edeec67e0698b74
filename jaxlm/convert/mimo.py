"""MiMo (Xiaomi 2025, arXiv:2505.07608): Qwen2 with a layer that predicts further tokens, which is left out."""

from jaxlm.convert import qwen2
from jaxlm.convert.qwen2 import DEFAULTS, NAMES, config

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"mimo": "MiMoForCausalLM"}
IGNORED = (*qwen2.IGNORED, "model.mtp_layers.*")
