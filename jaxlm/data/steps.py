"""Solutions whose steps were judged, for process rewards."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.config_check import check
from jaxlm.data.config import Data, TokenizerConfig
from jaxlm.data.dataset import finite_batches, rows_of
from jaxlm.data.measures import spell, text_measures
from jaxlm.data.pack import Batch
from jaxlm.data.read_conversations import records
from jaxlm.data.tokenize import hash_fraction, opened
from jaxlm.errors import UserError
from jaxlm.paths import expand
from jaxlm.text import Tokenizer

if TYPE_CHECKING:
    from jaxlm.data.loader import TrainBatches


@dataclasses.dataclass(frozen=True)
class Steps(Data):
    """Rows of .jsonl or .json files, {"prompt": text, "completions": [step, ...], "labels": [true, ...]}, for
    `objectives.ProcessReward`: a text of a prompt and its steps, whose judgement stands at each step's last token.

    Attributes:
        path: the file. tokenizer: as in `Preferences`. end: put behind every step. T: positions; what is beyond is cut.
        holdout: the share to evaluate on, chosen by a hash of the prompt. seed: of the order of rows.
    """

    path: str
    tokenizer: TokenizerConfig = TokenizerConfig()
    end: str = "\n"
    T: int = 512
    holdout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, T=">= 2", seed=">= 0", holdout="(0, 1)")

    def prepare(self, progress: Any = None) -> "StepDataset":
        tokenizer = opened(self.tokenizer)
        sides: tuple[list, list] = [], []
        for number, row in records(expand(self.path)):
            steps, right = (
                (row.get(key) if isinstance(row, Mapping) else ()) or () for key in ("completions", "labels")
            )
            good = isinstance(steps, list) and isinstance(right, list) and len(steps) == len(right) > 0
            if not good or not isinstance(row["prompt"], str) or not all(isinstance(x, bool) for x in right):
                wanted = '{"prompt": text, "completions": [step, ...], "labels": [true or false of each]}'
                raise UserError(f"{self.path}, record {number}: not {wanted}")
            ids, marks = tokenizer.encode_prompt(row["prompt"]), []
            for step, label in zip(steps, right):
                ids = [*ids, *tokenizer.encode(step + self.end)]
                marks.append((len(ids) - 1, int(label)))
            sides[hash_fraction(row["prompt"]) < self.holdout].append((np.array(ids, np.int32), marks))
        if not all(sides):
            raise UserError(f"{self.path}: no solution is left to {'evaluate' if sides[0] else 'train'} on: give more")
        return StepDataset(self, tokenizer, *sides)


@dataclasses.dataclass(frozen=True)
class StepDataset:
    """See `data.Prepared`."""

    config: Steps
    tokenizer: Tokenizer
    train: list[tuple[np.ndarray, list[tuple[int, int]]]]
    heldout: list[tuple[np.ndarray, list[tuple[int, int]]]]

    @functools.cached_property
    def fingerprint(self) -> str:
        content = [[ids.tolist(), marks] for ids, marks in self.train] + [self.config.T, self.config.seed]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()

    def train_batches(self, batch: int, rows: Sequence[int] | None = None) -> "TrainBatches":
        from jaxlm.data.loader import TrainBatches, shuffled  # imports grain

        stream = shuffled(StepRows(self.train, self.config.T), self.config.seed)
        return TrainBatches(stream, batch, rows_of(batch, rows), self.fingerprint)

    def heldout_rows(self, tokens: int = 0) -> "StepRows":
        return StepRows(self.heldout, self.config.T)

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return text_measures(sums)

    def summary(self, rows: int) -> str:
        return f"{len(self.train):,} solutions to train on, {len(self.heldout):,} held out"

    def table(self, scores: Mapping[str, float], tokens: int = 0) -> str:
        right = np.mean([label for _, marks in self.heldout for _, label in marks])
        return f"held out: {spell(scores)} ({right:.4f} of the steps are right)"


class StepRows:
    """Rows for grain and for `data.Heldout`."""

    def __init__(self, solutions: list[Any], T: int) -> None:
        self._solutions, self._T = solutions, T

    def __len__(self) -> int:
        return len(self._solutions)

    def __repr__(self) -> str:
        return f"StepRows({len(self)}, T={self._T})"

    def __getitem__(self, index: int) -> Batch:
        (ids, marks), T = self._solutions[int(index)], self._T
        row: Batch = {name: np.zeros(T, np.int32) for name in ("tokens", "labels", "segments", "positions")}
        row["weights"], n = np.zeros(T, np.float32), min(len(ids), T)
        row["tokens"][:n], row["segments"][:n], row["positions"][:n] = ids[:n], 1, np.arange(n)
        for at, label in marks:
            if at < T:
                row["labels"][at], row["weights"][at] = label, 1
        return row

    def batches(self, batch: int, rows: Sequence[int]) -> Iterator[Batch]:
        return finite_batches(self.__getitem__, len(self), batch, rows)

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return text_measures(sums)
