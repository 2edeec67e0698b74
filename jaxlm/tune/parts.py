"""The ways of training a small part of a model, by name."""

import dataclasses
from typing import Any

from jaxlm.errors import unknown
from jaxlm.nn.virtual import VirtualConfig
from jaxlm.trains import All, Also, Only, Trains
from jaxlm.tune.bottleneck import Bottlenecks
from jaxlm.tune.ia3 import IA3
from jaxlm.tune.lora import LoRA
from jaxlm.tune.virtual import Virtual

MATRICES = r"mixer\.\w+|ffn\.\w+"


def method(name: str, model: Any, size: int = 16, also: str = "") -> tuple[Any, Trains]:
    """The model, with virtual tokens where the method has them, and what is trained.

    `size` is the rank of "lora" and "dora" (of all matrices of layers), the width of the bottlenecks "houlsby" and
    "pfeiffer", the number of virtual tokens of "prompt", "ptuning" and "prefix"; "ia3", "norms", "bitfit" (biases) and
    "full" have none. `also` finds weights that are trained besides, such as a new head. Raises UserError for another
    name.
    """
    given = lambda **how: dataclasses.replace(model, virtual=VirtualConfig(size, **how))
    made = {
        "full": lambda: (model, All()),
        "lora": lambda: (model, LoRA(size, alpha=2.0 * size, of=MATRICES)),
        "dora": lambda: (model, LoRA(size, alpha=2.0 * size, of=MATRICES, dora=True)),
        "ia3": lambda: (model, IA3()),
        "prompt": lambda: (given(), Virtual()),
        "ptuning": lambda: (given(), Virtual("mlp")),
        "prefix": lambda: (given(prefix=True), Virtual()),
        "houlsby": lambda: (model, Bottlenecks(size)),
        "pfeiffer": lambda: (model, Bottlenecks(size, of="ffn.down")),
        "norms": lambda: (model, Only(r"norm\w*\.(scale|bias)$")),
        "bitfit": lambda: (model, Only(r"bias$")),
    }
    if name not in made:
        raise unknown("method of tuning", name, made)
    tuned, trains = made[name]()
    return tuned, Also(trains, also) if also and name != "full" else trains
