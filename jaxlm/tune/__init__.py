"""Functions from parameters to parameters: adapters, quantisation."""

from jaxlm.tune.lora import LoRA
from jaxlm.tune.quantize import quantize

__all__ = ["LoRA", "quantize"]
