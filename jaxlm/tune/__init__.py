"""Functions from parameters to parameters: adapters, quantisation, pruning."""

from jaxlm.tune.calibrate import Row, table
from jaxlm.tune.fit import fit
from jaxlm.tune.ia3 import IA3
from jaxlm.tune.kept import Kept, gradual, lottery_ticket
from jaxlm.tune.lora import LoRA
from jaxlm.tune.methods import calibrated
from jaxlm.tune.prune import cubic, prune, sparsity
from jaxlm.tune.quantize import quantize
from jaxlm.tune.structured import prune_heads, prune_layers, prune_units

__all__ = [
    "IA3",
    "Kept",
    "LoRA",
    "Row",
    "calibrated",
    "cubic",
    "fit",
    "gradual",
    "lottery_ticket",
    "prune",
    "prune_heads",
    "prune_layers",
    "prune_units",
    "quantize",
    "sparsity",
    "table",
]
