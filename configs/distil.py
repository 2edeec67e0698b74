"""Distillation: a smaller student learns from a larger model's expectations."""

import dataclasses
from typing import Any

from jaxlm import config as saved
from jaxlm.convert.files import CONFIG
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig
from jaxlm.objectives import Distil
from jaxlm.paths import expand
from jaxlm.run import RunConfig
from jaxlm.tune import Taught

from .quickstart import quickstart


def distil(
    teacher: str = "runs/quickstart", hard: float = 0.2, temperature: float = 2.0, quantize: str = ""
) -> RunConfig:
    """A student of half the width and a third of the layers learns from the run in the folder `teacher`, on its data.

        jaxlm train quickstart
        jaxlm train distil

    With quantize="int8" the teacher is kept in fewer bits.
    """
    folder = expand(teacher)
    run: Any = saved.load(folder / CONFIG) if (folder / CONFIG).is_file() else quickstart()
    block = BlockConfig(AttentionConfig(H=2, K=48), MLPConfig(F=384, activation="relu2", gated=False))
    model = dataclasses.replace(run.model, D=96, layers=(LayersConfig((block,), 2),))
    objective = Distil(teacher=run.model, hard=hard, temperature=temperature)
    return dataclasses.replace(
        run, model=model, objective=objective, trains=Taught(teacher, run.model, quantize=quantize)
    )
