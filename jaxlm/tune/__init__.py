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
from jaxlm.tune.qat import QAT
from jaxlm.tune.quantize import quantize
from jaxlm.tune.sequences import on_policy, teach_texts
from jaxlm.tune.structured import prune_heads, prune_layers, prune_units
from jaxlm.tune.taught import Taught
from jaxlm.tune.virtual import Virtual

__all__ = [
    "IA3",
    "QAT",
    "Bottlenecks",
    "Kept",
    "LoRA",
    "Row",
    "Taught",
    "Virtual",
    "calibrated",
    "cubic",
    "fit",
    "gradual",
    "lottery_ticket",
    "method",
    "on_policy",
    "prune",
    "prune_heads",
    "prune_layers",
    "prune_units",
    "quantize",
    "sparsity",
    "table",
    "teach_texts",
]
