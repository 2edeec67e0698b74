"""Formal languages (Beck et al. 2024, arXiv:2405.04517, 4.1): small models on tasks that tell them apart."""

from jaxlm.data import SyntheticTask
from jaxlm.errors import unknown
from jaxlm.models import LMConfig
from jaxlm.nn import LayersConfig, xlstm_layers
from jaxlm.objectives import Answers
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig

from ._mixers import KINDS
from ._mixers import layers as kinds

HEADS = 4
MODELS = (*KINDS, "xlstm[0:1]", "xlstm[1:0]", "xlstm[1:1]")


def layers(model: str, D: int) -> tuple[LayersConfig, ...]:
    """The two layers of a model of the table, by the table's name in small letters."""
    if model not in MODELS:
        raise unknown("model", model, MODELS)
    if model.startswith("xlstm"):
        return xlstm_layers(D, 1, 2, int(model[6]), int(model[8]))
    return kinds([model] * 2, D, HEADS)


def formal_languages(
    model: str = "lstm", task: str = "parity", D: int = 64, steps: int = 20_000, rate: float = 1e-3, batch: int = 256
) -> RunConfig:
    """The paper's protocol: two blocks, lengths 3 to 40 to learn from and 40 to 256 to be tested on, AdamW.

        jaxlm train 'formal_languages(model="mamba", task="cycle_navigation", steps=3000, batch=64)'

    `scripts/formal_languages` runs models x tasks x seeds x rates and writes one table; benchmarks/formal.md has what
    was measured. An LSTM finds parity (scaled accuracy 1.0), a Transformer does not.
    """
    data = SyntheticTask(task)
    return RunConfig(
        model=LMConfig(V=data.vocabulary, D=D, layers=layers(model, D), tied=False),
        data=data,
        objective=Answers(),
        optimizer=OptimizerConfig(learning_rate=rate, warmup=steps // 10, final=1e-3, weight_decay=0.1),
        steps=steps,
        batch=batch,
        eval_every=steps // 4,
        save_every=steps // 4,
        prompts=(),
    )
