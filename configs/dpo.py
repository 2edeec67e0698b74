"""Learning from preferences: a model's chosen answers become likelier than its rejected ones."""

import dataclasses

from jaxlm.data import Preferences, Source
from jaxlm.objectives import CPO, DPO, KTO, ORPO, SimPO
from jaxlm.optim import OptimizerConfig
from jaxlm.run import RunConfig

from .sft import sft

METHODS = {"dpo": DPO(), "kto": KTO(), "orpo": ORPO(), "simpo": SimPO(), "cpo": CPO()}


def dpo(start: str = "", lora: int = 0, method: str = "dpo") -> RunConfig:
    """Pairs of answers through the template of the model in the folder `start`, or as plain text where it has none.

        jaxlm train dpo start=FOLDER data.sources.0.path=pairs.jsonl
        jaxlm train dpo start=FOLDER data.sources.0.path=pairs.jsonl objective.form=ipo
        jaxlm train 'dpo(start="FOLDER", lora=16, method="simpo")' data.sources.0.path=pairs.jsonl

    `method` is dpo (in any of its forms, objective.form), kto (of judged answers, or of pairs taken apart), orpo, simpo
    or cpo; the first two keep to a reference, the model they begin from, whose log probabilities are computed once and
    cached. With `lora` only adapters of that rank are trained. Without `start` a model of 0.9M parameters over bytes
    begins from nothing, which shows the curves and no more.
    """
    base = sft(start, lora)
    data = Preferences(
        sources=(Source("pairs.jsonl"),),
        tokenizer=base.data.tokenizer,  # pyright: ignore[reportAttributeAccessIssue]
        apart=method == "kto",
    )
    return dataclasses.replace(
        base,
        data=data,
        objective=METHODS[method],
        optimizer=OptimizerConfig(learning_rate=5e-5 if lora else 1e-6, schedule="linear", warmup=20),
        prompts=(),
    )
