"""Functions from parameters to parameters: adapters, quantisation, pruning."""

from jaxlm.tune.bottleneck import Bottlenecks
from jaxlm.tune.calibrate import Row, table
from jaxlm.tune.fit import fit
from jaxlm.tune.ia3 import IA3
from jaxlm.tune.kept import Kept, gradual, lottery_ticket
from jaxlm.tune.lora import LoRA
from jaxlm.tune.methods import calibrated
from jaxlm.tune.parts import method
from jaxlm.tune.prune import cubic, prune, sparsity
from jaxlm.tune.quantize import quantize
from jaxlm.tune.structured import prune_heads, prune_layers, prune_units
from jaxlm.tune.virtual import Virtual

__all__ = [
    "IA3",
    "Bottlenecks",
    "Kept",
    "LoRA",
    "Row",
    "Virtual",
    "calibrated",
    "cubic",
    "fit",
    "gradual",
    "lottery_ticket",
    "method",
    "prune",
    "prune_heads",
    "prune_layers",
    "prune_units",
    "quantize",
    "sparsity",
    "table",
]
