"""Reinforcement learning from rewards that can be verified: a model writes, is rewarded, and learns from it."""

import dataclasses
from typing import Any

from jaxlm.data import Prompts, Source
from jaxlm.models import WithHead
from jaxlm.objectives import Policy
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig

from .sft import sft

METHODS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "dr_grpo": {"loss_type": "dr_grpo", "scale": "none"},
    "dapo": {"high": 0.28},
    "gspo": {"loss_type": "grpo", "level": "sequence", "low": 3e-4, "high": 4e-4},
    "cispo": {"loss_type": "cispo", "high": 4.0},
    "rloo": {"method": "rloo", "beta": 0.05, "loss_type": "grpo", "level": "sequence"},
    "reinforce": {"method": "reinforce", "beta": 0.05},
    "ppo": {"method": "ppo", "beta": 0.05, "epochs": 4},
    "online_dpo": {"method": "online_dpo", "beta": 0.1, "G": 2},
}


def grpo(start: str = "", rewards: str = "", lora: int = 0, method: str = "grpo") -> RunConfig:
    """Prompts of a file through the template of the model in the folder `start`, and rewards by name.

        jaxlm train grpo start=FOLDER rewards=number data.sources.0.path=gsm8k.jsonl
        jaxlm train 'grpo(start="FOLDER", rewards="number,think_format", lora=16, method="rloo")' data.sources.0.path=F

    A row of the file has a prompt (or question, or messages) and what its rewards read, such as answer. `rewards` are
    names of jaxlm.align.rewards, "file.py:function" (prompt, text, row) -> number, or "model:FOLDER" of a reward model,
    with commas between. `method` is grpo, dr_grpo, dapo, gspo, cispo, rloo, reinforce, ppo (which adds a value head) or
    online_dpo. Arithmetic of a small model in minutes: configs/arithmetic.py.
    """
    base = sft(start, lora)
    model: Any = base.model
    objective = Policy(rewards=tuple(filter(None, rewards.split(","))), **METHODS[method])
    return dataclasses.replace(
        base,
        model=WithHead(model) if objective.method == "ppo" else model,
        data=Prompts(sources=(Source("prompts.jsonl"),), tokenizer=base.data.tokenizer),  # pyright: ignore
        objective=objective,
        optimizer=OptimizerConfig(learning_rate=1e-5 if lora else 1e-6, warmup=10),
        batch=64,
        prompts=("",),
    )
