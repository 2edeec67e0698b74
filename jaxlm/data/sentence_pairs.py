"""Two pieces of text a row, of which the second follows the first in its document or comes from anywhere."""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxlm.data.config import DataConfig
from jaxlm.data.dataset import Dataset, finite_batches, prepare, rows_of
from jaxlm.data.heldout import in_order
from jaxlm.data.measures import spell, text_measures
from jaxlm.data.pack import Batch
from jaxlm.data.shards import Shards
from jaxlm.errors import UserError
from jaxlm.text import Tokenizer

if TYPE_CHECKING:
    from jaxlm.data.loader import TrainBatches

SPECIAL = 3  # tokens beside the two texts


@dataclasses.dataclass(frozen=True)
class SentencePairs(DataConfig):
    """Documents as `DataConfig` reads them, for `objectives.MaskedPairs`. A row is

        [CLS] first [SEP] second [SEP]

    with types 0 and 1: a window of one document cut in two at a random place, the second part replaced by one of any
    other place in half of the rows (BERT; Devlin et al. 2019, arXiv:1810.04805). Which is a pure function of the seed
    and the row's number. Tokenizers without [CLS] and [SEP] give `eot` in their place.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.T < SPECIAL + 2:
            raise UserError(f"data.T={self.T} has no room for two texts and {SPECIAL} special tokens: raise it")

    def prepare(self, progress: Any = None) -> "SentencePairsDataset":
        return SentencePairsDataset(prepare(self, progress))


@dataclasses.dataclass(frozen=True)
class SentencePairsDataset:
    """See `data.Prepared`."""

    of: Dataset

    @property
    def tokenizer(self) -> Tokenizer:
        return self.of.tokenizer

    @property
    def fingerprint(self) -> str:
        return hashlib.blake2b(b"pairs" + self.of.fingerprint.encode(), digest_size=16).hexdigest()

    def train_batches(self, batch: int, rows: Sequence[int] | None = None) -> "TrainBatches":
        """As `Dataset.train_batches`; a row is the same pair in every epoch."""
        from jaxlm.data.loader import TrainBatches, grain, shuffled  # imports grain

        c = self.of.config
        made = [PairRows(shards, self.tokenizer, c.T, c.seed) for shards in self.of.train]
        streams = [shuffled(rows, c.seed + 1_000_003 * i) for i, rows in enumerate(made)]
        weights = [source.weight for source in c.sources]
        stream = grain.MapDataset.mix(streams, weights=weights) if len(streams) > 1 else streams[0]
        return TrainBatches(stream, batch, rows_of(batch, rows), self.fingerprint)

    def heldout_rows(self, tokens: int = 0) -> "HeldoutPairRows":
        """All of them, or evenly chosen ones with about so many positions."""
        every = [PairRows(shards, self.tokenizer, self.of.config.T, 0) for shards in in_order(self.of.heldout)]
        places = [(i, n) for i, rows in enumerate(every) for n in range(len(rows))]
        count = min(-(-tokens // self.of.config.T) or len(places), len(places))
        at = np.linspace(0, len(places) - 1, count).round().astype(int)
        return HeldoutPairRows(every, [places[i] for i in at])

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return text_measures(sums)

    def summary(self, rows: int) -> str:
        return self.of.summary(rows) + f"\npairs of texts in rows of {self.of.config.T} tokens"

    def table(self, scores: Mapping[str, float], tokens: int = 0) -> str:
        return "held out: " + spell(scores)


class PairRows:
    """Rows of a token stream as pairs, for grain."""

    def __init__(self, shards: Shards, tokenizer: Tokenizer, T: int, seed: int) -> None:
        around = tokenizer.encode("", special=True) or [tokenizer.eot]
        self._around, self._eot = (around[0], around[-1]), tokenizer.eot
        self._shards, self._T, self._seed = shards, T, seed

    def __len__(self) -> int:
        return max(self._shards.tokens // (self._T - SPECIAL), 1)

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng((self._seed, int(index)))
        text = self._text(int(index))
        at = int(rng.integers(1, len(text))) if len(text) > 1 else 1
        first, second = text[:at], text[at:]
        follows = bool(rng.integers(2)) and len(second) > 0
        if not follows:
            second = self._text(int(rng.integers(len(self))))[: max(self._T - SPECIAL - at, 1)]
        return self._row(first, second, follows)

    def __repr__(self) -> str:
        return f"PairRows({self._shards.folder.name}, T={self._T})"

    def _text(self, index: int) -> np.ndarray:
        """The longest piece of one document in window `index`."""
        n = self._T - SPECIAL
        window = self._shards.window(index * n, n)
        pieces = [piece[piece != self._eot] for piece in np.split(window, np.flatnonzero(window == self._eot))]
        return max(pieces, key=len)[: n - 1] if len(pieces) > 1 else pieces[0]

    def _row(self, first: np.ndarray, second: np.ndarray, follows: bool) -> Batch:
        start, end = self._around
        ids = np.array([start, *first, end, *second[: self._T - SPECIAL - len(first)], end], np.int32)
        pad = lambda x: np.pad(x, (0, self._T - len(ids))).astype(np.int32)
        inner = np.ones(len(ids))
        inner[[0, len(first) + 1, -1]] = 0
        return {
            "tokens": pad(ids),
            "segments": pad(np.ones(len(ids))),
            "positions": pad(np.arange(len(ids))),
            "types": pad(np.arange(len(ids)) > len(first) + 1),
            "weights": pad(inner).astype(np.float32),
            "follows": np.array([follows], np.int32),
            "pair_weights": np.ones(1, np.float32),
        }


@dataclasses.dataclass(frozen=True)
class HeldoutPairRows:
    """See `data.Heldout`."""

    every: list[PairRows]
    places: list[tuple[int, int]]

    def batches(self, batch: int, rows: Sequence[int]) -> Iterator[Batch]:
        row = lambda at: self.every[self.places[at][0]][self.places[at][1]]
        return finite_batches(row, len(self.places), batch, rows)

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return text_measures(sums)
