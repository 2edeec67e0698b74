"""Reasoning in minutes on a laptop: a small model of characters that reads sums, then is rewarded for right answers."""

import dataclasses
from typing import Any

from jaxlm.data import DataConfig, Prompts, Source, TokenizerConfig
from jaxlm.models import LMConfig, WithHead
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig
from jaxlm.objectives import Policy
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig

from .grpo import METHODS

MODEL = LMConfig(
    V=264, D=128, layers=(LayersConfig((BlockConfig(AttentionConfig(H=4, K=32), MLPConfig(F=384)),), 2),), tied=True
)


def arithmetic(folder: str = "data", think: bool = False) -> RunConfig:
    """Pretraining: sums of which 40 % are right, or sums of five digits with more or fewer steps of thought.

    scripts/arithmetic data
    jaxlm train arithmetic
    jaxlm train 'arithmetic(think=True)'
    """
    name = "thoughts" if think else "sums"
    return RunConfig(
        model=MODEL,
        data=DataConfig(sources=(Source(f"{folder}/{name}.jsonl"),), tokenizer=TokenizerConfig(), T=128),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup=20, final=0.1),
        steps=1000 if think else 600,
        batch=16,
        eval_every=200,
        save_every=200,
        sample_every=200,
        log_every=20,
        prompts=("",),
    )


def arithmetic_rl(start: str = "", folder: str = "data", method: str = "grpo", think: bool = False) -> RunConfig:
    """Reinforcement learning of the same model from right answers alone; with `think` a right form counts a little too.

        jaxlm train arithmetic_rl start=runs/arithmetic
        jaxlm train 'arithmetic_rl(method="ppo")' start=runs/arithmetic
        jaxlm train 'arithmetic_rl(think=True)' start=runs/arithmetic-thinkTrue

    `method` is one of configs/grpo.py.
    """
    name = "thoughts" if think else "sums"
    how: dict[str, Any] = dict(METHODS[method])
    if method in ("rloo", "reinforce", "ppo"):
        how["beta"] = 0.01
    objective = Policy(
        rewards=("number", "think_format") if think else ("exact",),
        reward_weights=(1.0, 0.1) if think else (),
        new_tokens=72 if think else 6,
        **how,
    )
    base = arithmetic(folder)
    return dataclasses.replace(
        base,
        model=WithHead(MODEL) if method == "ppo" else MODEL,
        data=Prompts(
            sources=(Source(f"{folder}/{name}_prompts.jsonl"),), heldout=f"{folder}/{name}_heldout.jsonl", T=16
        ),
        start=start,
        objective=objective,
        optimizer=OptimizerConfig(learning_rate=5e-4, schedule="constant", warmup=5),
        steps=150,
        batch=64 if think else 128,
        eval_every=20,
        save_every=50,
        sample_every=20,
        log_every=5,
    )
