"""Reward models in Hugging Face's sequence-classification layout: the trunk's tensors without its head, and `score`."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxlm.axes import Params
from jaxlm.convert.families import Source
from jaxlm.convert.names import Rule, Tensor, apart
from jaxlm.convert.save import save
from jaxlm.errors import UserError
from jaxlm.models import WithHead
from jaxlm.models.with_head import SCORE, TRUNK

NAME = "score.weight"
CLASS = "ForSequenceClassification"
HEAD = ("head",)


@dataclasses.dataclass(frozen=True)
class RewardSource(Source):
    """How the trunk was found."""

    def tensors(self, config: Any) -> Iterator[Tensor]:
        for tensor in super().tensors(config.trunk):
            if any(weight.key == HEAD for weight in tensor.weights):
                continue
            below = tuple(dataclasses.replace(weight, key=(TRUNK, *weight.key)) for weight in tensor.weights)
            yield dataclasses.replace(tensor, weights=below)
        (score,) = (weight for weight in apart(config)[0] if weight.key == (SCORE,))
        yield Tensor(NAME, score.shape, Rule((SCORE,)), (score,), ())


def save_reward(folder: Path, config: WithHead, params: Params, source: Source, tokenizer: Any = None) -> None:
    """Write the model so that transformers' `AutoModelForSequenceClassification` opens it, with one label. `source` is
    the trunk's. Raises UserError for a trunk of no family of Hugging Face's."""
    fields = dict(source.fields)
    kinds = fields.get("architectures") or [""]
    name = next((kinds[0].removesuffix(end) for end in ("ForCausalLM", "LMHeadModel") if kinds[0].endswith(end)), None)
    if name is None:
        raise UserError("no family of Hugging Face's layout has models like this one's trunk: a run keeps it")
    fields |= {
        "architectures": [name + CLASS],
        "num_labels": 1,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    if tokenizer is not None:  # where a row ends is told by it: real tokens are none
        fields["pad_token_id"] = tokenizer.pad if getattr(tokenizer, "pad", None) is not None else tokenizer.eot
    save(folder, config, params, RewardSource(source.family, fields, source.spelling, source.folder), tokenizer)
