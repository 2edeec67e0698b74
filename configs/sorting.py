"""Sorting: a small Transformer reads numbers and writes them in order."""

from jaxlm.data import SyntheticTask
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, LearnedConfig, MLPConfig
from jaxlm.objectives import Answers
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig

NUMBERS = 16  # at most, in a row


def sorting() -> RunConfig:
    """Up to 16 numbers, each one of 16, sorted by two layers of attention.

        jaxlm train sorting

    One core of a busy machine: 16 minutes, and 100 % of 512 held-out rows are right from the first number to the last.
    """
    data = SyntheticTask("sorting", lengths=(3, 2 * NUMBERS + 1), test_lengths=(3, 2 * NUMBERS + 1), T=2 * NUMBERS)
    block = BlockConfig(AttentionConfig(H=4, K=16, rope=None), MLPConfig(F=128))
    return RunConfig(
        model=LMConfig(
            V=data.vocabulary, D=64, layers=(LayersConfig((block,), 2),), positions=LearnedConfig(data.T), tied=False
        ),
        data=data,
        objective=Answers(),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup=100, final=0.01, weight_decay=0.01),
        steps=2000,
        batch=64,
        eval_every=500,
        save_every=500,
        log_every=100,
        prompts=(),
    )
