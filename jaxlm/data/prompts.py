"""Prompts to write answers to: rows of a file, of which what is not the prompt is kept for rewards."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.config_check import check
from jaxlm.data.config import Data, Source, TokenizerConfig
from jaxlm.data.dataset import rows_of
from jaxlm.data.examples import check_sources, read_apart, with_template
from jaxlm.data.measures import spell, text_measures
from jaxlm.data.pack import Batch
from jaxlm.data.preferences import prompt_ids
from jaxlm.data.read_conversations import messages_of, read_each
from jaxlm.errors import UserError
from jaxlm.text import Tokenizer

if TYPE_CHECKING:
    from jaxlm.data.loader import TrainBatches

FIELDS = ("prompt", "question", "messages")  # of which the first that is there is the prompt


@dataclasses.dataclass(frozen=True)
class Prompts(Data):
    """Rows of .jsonl, .json (both also .gz) or .parquet files with a "prompt" (or "question", or "messages"), for
    `objectives.Policy`: the prompt is written by the chat template, or stands as it is where the tokenizer has none;
    all keys of the row, such as "answer", are given to the rewards.

    Attributes:
        sources: files; together, so each has the default weight.
        tokenizer: "file" with a path, mostly the folder of the model that is tuned, or "bytes".
        template: the name of one of our templates (`text.builtin_template`), instead of the tokenizer's own.
        before, after: put around a prompt that is a text, as examples before and "Let's think step by step." after.
        T: the longest prompt in tokens; longer ones are left out, and that is said.
        heldout, holdout, seed: as in `Preferences`.
    """

    sources: tuple[Source, ...] = (Source("prompts.jsonl"),)
    tokenizer: TokenizerConfig = TokenizerConfig()
    template: str = ""
    before: str = ""
    after: str = ""
    T: int = 256
    heldout: str = ""
    holdout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, T=">= 1", seed=">= 0", holdout="(0, 1)")
        check_sources("prompts", self.sources, self.tokenizer)

    def prepare(self, progress: Any = None) -> "PromptDataset":
        tokenizer, template = with_template(self.tokenizer, self.template)
        text = lambda row: json.dumps(row, default=str)
        train, heldout = read_apart(read, self.sources, self.heldout, self.holdout, text)
        sides, long = [], 0
        for rows in (train, heldout):
            made = [Prompted(*_prompt(row, self, tokenizer, template), row) for row in rows]
            long += sum(len(one.ids) > self.T for one in made)
            sides.append([one for one in made if len(one.ids) <= self.T])
            if not sides[-1]:
                raise UserError(
                    f"no prompt is left to {'evaluate' if len(sides) > 1 else 'train'} on: raise data.T={self.T}"
                )
        return PromptDataset(self, tokenizer, sides[0], sides[1], long)


@dataclasses.dataclass(frozen=True)
class Prompted:
    """A prompt as the model reads it, and its row of the file."""

    text: str
    ids: list[int]
    row: dict[str, Any]


def read(path: str) -> list[dict[str, Any]]:
    """All rows. Raises UserError, naming file and record, for one without a prompt."""

    def row(record: Any) -> dict[str, Any]:
        if not isinstance(record, Mapping) or not any(record.get(field) for field in FIELDS):
            raise UserError(f"no prompt: none of {', '.join(FIELDS)} is there")
        return dict(record)

    return read_each(path, "prompts", row)


def _prompt(row: dict[str, Any], c: Prompts, tokenizer: Tokenizer, template: Any) -> tuple[str, list[int]]:
    given = next(row[field] for field in FIELDS if row.get(field))
    if not isinstance(given, str):
        messages = messages_of(given)
        text = next((str(m["content"]) for m in reversed(messages) if m["role"] == "user"), "")
        return text, prompt_ids(tokenizer, template, messages)
    text = c.before + given + c.after
    return text, prompt_ids(tokenizer, template, text)


@dataclasses.dataclass(frozen=True)
class PromptDataset:
    """See `data.Prepared`; batches have the numbers of prompts in `train`."""

    config: Prompts
    tokenizer: Tokenizer
    train: list[Prompted]
    heldout: list[Prompted]
    long: int

    @functools.cached_property
    def fingerprint(self) -> str:
        content = json.dumps([[one.text, one.ids, one.row] for one in self.train] + [self.config.seed], default=str)
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    @property
    def prompts(self) -> list[tuple[str, list[int]]]:
        return [(one.text, one.ids) for one in self.heldout[:3]]

    def train_batches(self, batch: int, rows: Sequence[int] | None = None) -> "TrainBatches":
        """Endless: every epoch has each prompt once, in a new order; of each batch the "index"."""
        from jaxlm.data.loader import TrainBatches, shuffled  # imports grain

        stream = shuffled(Indices(len(self.train)), self.config.seed)
        return TrainBatches(stream, batch, rows_of(batch, rows), self.fingerprint)

    def heldout_rows(self, tokens: int = 0) -> Any:
        raise NotImplementedError("prompts have no labels: align.rollout evaluates on what is written to them")

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return text_measures(sums)

    def summary(self, rows: int) -> str:
        left_out = f"\n{self.long:,} prompts are longer than data.T={self.config.T} and were left out" * bool(self.long)
        return f"{len(self.train):,} prompts to train on, {len(self.heldout):,} held out{left_out}"

    def table(self, scores: Mapping[str, float], tokens: int = 0) -> str:
        return f"held out: {spell(scores)}"


class Indices:
    """The numbers of prompts, for grain."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Batch:
        return {"index": np.array(int(index), np.int64)}

    def __repr__(self) -> str:
        return f"Indices({self._count})"
