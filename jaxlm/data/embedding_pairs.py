"""Pairs of texts that mean the same, or answer each other, for vectors of texts: one pair a row."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.data.dataset import rows_of
from jaxlm.data.pack import Batch
from jaxlm.data.text_pairs import Encoded, HeldoutPairs, Pair, PairDataset, TextPairs
from jaxlm.text import Tokenizer
from jaxlm.text.truncate import truncated

if TYPE_CHECKING:
    from jaxlm.data.loader import TrainBatches


@dataclasses.dataclass(frozen=True)
class EmbeddingPairs(TextPairs):
    """The pairs of `TextPairs`, for `objectives.Contrastive`: both sides are cut after T tokens, and a row has one
    pair, so that a batch has as many targets as rows."""

    packs = False

    def encoded(self, pairs: Sequence[Pair], tokenizer: Tokenizer) -> Encoded:
        ids = lambda text: np.array(truncated(tokenizer, text, self.T) or [tokenizer.eot], np.int32)
        return [(ids(source), ids(target)) for source, target in pairs]

    def prepare(self, progress: Any = None) -> "EmbeddingDataset":
        made = super().prepare(progress)
        return EmbeddingDataset(**{field.name: getattr(made, field.name) for field in dataclasses.fields(made)})


class EmbeddingDataset(PairDataset):
    def train_batches(self, batch: int, rows: Sequence[int] | None = None) -> "TrainBatches":
        from jaxlm.data.loader import TrainBatches, shuffled  # imports grain

        stream = shuffled(ApartRows(self.train, self.config.T), self.config.seed)
        return TrainBatches(stream, batch, rows_of(batch, rows), f"apart {self.fingerprint}")

    def heldout_rows(self, tokens: int = 0) -> HeldoutPairs:
        rows: Any = ApartRows(self.heldout, self.config.T)
        return HeldoutPairs(rows, min(-(-tokens // self.config.T) or len(rows), len(rows)))

    @property
    def epoch(self) -> int:
        """Rows of one pass."""
        return len(self.train)

    def summary(self, rows: int) -> str:
        epochs = f"{rows / len(self.train):.1f} epochs"
        return f"{len(self.train):,} pairs to train on, {epochs}; {len(self.heldout):,} held out"


class ApartRows:
    """Rows of one pair each, for grain."""

    def __init__(self, pairs: Encoded, T: int) -> None:
        self._pairs, self._T = pairs, T

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Batch:
        found: Batch = {"weights": np.ones(1, np.float32)}
        for name, ids in zip(("source", "target"), self._pairs[int(index)]):
            found[name] = np.pad(ids, (0, self._T - len(ids))).astype(np.int32)
            found[f"{name}_segments"] = (np.arange(self._T) < len(ids)).astype(np.int32)
        return found
