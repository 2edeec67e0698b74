"""Composition of modules into models; families and sizes are configs."""

from jaxlm.models.lm import LM, LMConfig, Output, abstract, forward, init_boxed, logits

__all__ = ["LM", "LMConfig", "Output", "abstract", "forward", "init_boxed", "logits"]
