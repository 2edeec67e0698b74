"""Composition of modules into models; families and sizes are configs."""

from jaxlm.models.lm import LM, LMConfig, Output, abstract, forward, init_boxed, logits
from jaxlm.models.memories import Memories, memories, promoted, strongest

__all__ = [
    "LM",
    "LMConfig",
    "Memories",
    "Output",
    "abstract",
    "forward",
    "init_boxed",
    "logits",
    "memories",
    "promoted",
    "strongest",
]
