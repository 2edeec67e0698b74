"""Reward models: which of two answers people would choose."""

import dataclasses
from typing import Any

from jaxlm.data import Preferences, Source
from jaxlm.models import WithHead
from jaxlm.objectives import BradleyTerry
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig

from .sft import sft


def reward(start: str = "", lora: int = 0) -> RunConfig:
    """A scalar head on the model in the folder `start`, trained on pairs of answers.

        jaxlm train reward start=FOLDER data.sources.0.path=pairs.jsonl

    Pairs are in any form of `data.read_preferences`, such as Anthropic's hh-rlhf. The run is used as a reward
    ("model:runs/reward") or by jaxlm.align.reward_model, and `scripts/rewards` prints its accuracy with an interval
    beside that of choosing the longer answer, its calibration, and the curve of the best of N; with --save it writes
    Hugging Face's sequence-classification layout.
    """
    base = sft(start, lora)
    trunk: Any = base.model
    data = Preferences(
        sources=(Source("pairs.jsonl"),),
        tokenizer=base.data.tokenizer,  # pyright: ignore[reportAttributeAccessIssue]
    )
    return dataclasses.replace(
        base,
        model=WithHead(trunk),
        data=data,
        objective=BradleyTerry(),
        optimizer=OptimizerConfig(learning_rate=1e-4 if lora else 1e-5, schedule="linear", warmup=20),
        prompts=(),
    )
