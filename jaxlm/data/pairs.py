"""Rows made by a rule instead of read from files: tasks that are learned in minutes, or not at all."""

import abc
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from jaxlm.config_check import check
from jaxlm.config_tree import to_dict
from jaxlm.data.config import Data
from jaxlm.data.dataset import rows_of
from jaxlm.data.measures import spell, text_measures
from jaxlm.data.pack import Batch

if TYPE_CHECKING:
    from jaxlm.data.loader import TrainBatches

PAD, START, END, FIRST = 0, 1, 2, 3  # ids; the symbols begin at the last
TASKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "copy": lambda x: x,
    "reverse": lambda x: x[::-1],
    "sort": np.sort,
}


class Synthetic(Data):
    """A frozen dataclass that makes any row when asked: a pure function of its fields and the row's number."""

    holdout: int  # rows to evaluate on

    @abc.abstractmethod
    def row(self, split: int, index: int) -> Batch:
        """Row `index` of the training split 0 or the held-out split 1, with "weights" among its arrays."""

    @property
    def content(self) -> str:
        """What decides the rows beside the fields: a hash of files."""
        return ""

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """See `data.Prepared`; of whole rows that are "exact" the share."""
        sums = dict(sums)
        rows, exact = sums.pop("rows", 0.0), sums.pop("exact", None)
        return text_measures(sums) | ({} if exact is None else {"exact": exact / (rows or math.nan)})

    def prepare(self, progress: Any = None) -> "SyntheticDataset":
        return SyntheticDataset(self)


@dataclasses.dataclass(frozen=True)
class SyntheticPairs(Synthetic):
    """Random sequences of 1 to T - 1 of V - 3 symbols, and what `task` makes of each: a lesson for encoder-decoders.

    Ids 0, 1 and 2 are padding, start and end. A row's source is padded on the right, its target begins with the start
    and its labels end with the end.
    """

    task: Literal["copy", "reverse", "sort"] = "reverse"
    V: int = 16
    T: int = 16  # positions of a source, and of a target
    holdout: int = 256  # rows to evaluate on
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, V=">= 4", T=">= 2", holdout=">= 1", seed=">= 0")

    def row(self, split: int, index: int) -> Batch:
        rng = np.random.default_rng((self.seed, split, index))
        source = rng.integers(FIRST, self.V, rng.integers(1, self.T))
        return pair_row(source, TASKS[self.task](source), START, END, self.T)


def pair_row(source: np.ndarray, target: np.ndarray, start: int, end: int, T: int) -> Batch:
    """A training row of one pair: the source, the target after its start, and with its end as labels; T of each."""
    pad = lambda x: np.pad(x, (0, T - len(x))).astype(np.int32)
    return {
        "source": pad(source),
        "source_segments": pad(np.ones_like(source)),
        "tokens": pad(np.array([start, *target])),
        "labels": pad(np.array([*target, end])),
        "weights": pad(np.ones(len(target) + 1)).astype(np.float32),
    }


@dataclasses.dataclass(frozen=True)
class SyntheticDataset:
    """See `data.Prepared`."""

    config: Synthetic
    tokenizer: None = None

    @property
    def fingerprint(self) -> str:
        content = json.dumps(to_dict(self.config)) + self.config.content
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def train_batches(self, batch: int, rows: Sequence[int] | None = None) -> "TrainBatches":
        from jaxlm.data.loader import TrainBatches  # imports grain

        return TrainBatches(Rows(self.config), batch, rows_of(batch, rows), self.fingerprint)

    def heldout_rows(self, tokens: int = 0) -> "SyntheticRows":
        """All of them, or about as many as have so many positions."""
        count = -(-tokens // self.config.T) or self.config.holdout
        return SyntheticRows(self.config, min(count, self.config.holdout))

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return self.config.measures(sums)

    def summary(self, rows: int) -> str:
        return f"{self.config}: {rows:,} rows to train on, {self.config.holdout:,} held out"

    def table(self, scores: Mapping[str, float], tokens: int = 0) -> str:
        return "held out: " + spell(scores)


@dataclasses.dataclass(frozen=True)
class SyntheticRows:
    """See `data.prepared.Heldout`."""

    config: Synthetic
    count: int

    def batches(self, batch: int, rows: Sequence[int]) -> Iterator[Batch]:
        for first in range(0, self.count, batch):
            made = [self.config.row(1, first + row) for row in rows]
            for i, row in enumerate(rows):
                if first + row >= self.count:
                    made[i]["weights"][:] = 0
            yield {name: np.stack([one[name] for one in made]) for name in made[0]}

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return self.config.measures(sums)


class Rows:
    """The endless training rows, for grain."""

    def __init__(self, config: Synthetic) -> None:
        self._config = config

    def __len__(self) -> int:
        return 2**31 - 1

    def __getitem__(self, index: int) -> Batch:
        return self._config.row(0, int(index))
