"""Functions from parameters to parameters: adapters, quantisation."""

from jaxlm.tune.ia3 import IA3
from jaxlm.tune.lora import LoRA
from jaxlm.tune.methods import calibrated
from jaxlm.tune.quantize import quantize

__all__ = ["IA3", "LoRA", "calibrated", "quantize"]
