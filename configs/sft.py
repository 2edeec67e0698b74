"""Supervised fine-tuning: a model learns to answer from conversations."""

import dataclasses
from pathlib import Path
from typing import Any

from jaxlm import config as saved
from jaxlm import convert, tune
from jaxlm.convert.files import CONFIG, is_model, read_json
from jaxlm.data import Conversations, TokenizerConfig
from jaxlm.errors import UserError
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig
from jaxlm.optim import OptimizerConfig
from jaxlm.paths import expand
from jaxlm.run import RunConfig


def sft(start: str = "", lora: int = 0, method: str = "full", size: int = 16) -> RunConfig:
    """Conversations through the template of the model in the folder `start`; only answers are learned.

        jaxlm train sft start=FOLDER data.sources.0.path=chats.jsonl
        jaxlm train 'sft(start="FOLDER", lora=16)' data.sources.0.path=chats.jsonl

    With `lora` only adapters of that rank are trained, on all matrices; other ways by name (`tune.method`):

        jaxlm train 'sft(start="FOLDER", method="prefix", size=20)' data.sources.0.path=chats.jsonl epochs=3

    The files are in the form of OpenAI (messages), ShareGPT (conversations) or Alpaca (instruction, input, output);
    a tokenizer without a template needs data.template, such as chatml. Without `start` a model of 0.9M parameters over
    bytes begins from nothing, which learns the form of an answer and no more.
    """
    data = Conversations(template="" if start else "chatml")
    model: Any = LMConfig(
        V=264, D=128, layers=(LayersConfig((BlockConfig(AttentionConfig(H=4, K=32), MLPConfig(F=384)),), 4),), tied=True
    )
    if start:
        folder = expand(start)
        model = _model(folder)
        tokenizer = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
        data = dataclasses.replace(data, tokenizer=TokenizerConfig("file", path=str(tokenizer)))
    method, size = ("lora", lora) if lora else (method, size)
    model, trains = tune.method(method, model, size)
    return RunConfig(
        model=model,
        data=data,
        start=start,
        trains=trains,
        optimizer=OptimizerConfig(learning_rate=2e-5 if method == "full" else 2e-4, schedule="cosine", warmup=20),
        steps=500,
        batch=16,
        eval_every=100,
        save_every=100,
        sample_every=100,
    )


def _model(folder: Path) -> Any:
    if not folder.is_dir():
        raise UserError(f"start={folder} is no folder: name a model in Hugging Face's layout, a run or a checkpoint")
    if is_model(folder):
        model = convert.lm_config(read_json(folder / CONFIG), str(folder / CONFIG))
    else:
        model = saved.load(folder).model
    return dataclasses.replace(model, remat="full")
