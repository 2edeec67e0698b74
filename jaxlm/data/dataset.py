"""The data of a training run, prepared: token streams on disk, and the ways to read them."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jaxlm.config_check import said
from jaxlm.data import sources, tokenize
from jaxlm.data.config import MOST, DataConfig, is_count
from jaxlm.data.heldout import HeldoutRows, heldout_rows, in_order
from jaxlm.data.measures import text_measures
from jaxlm.data.pack import Batch, pack
from jaxlm.data.shards import Shards
from jaxlm.data.words import with_words
from jaxlm.errors import UserError
from jaxlm.text import Tokenizer

ORDER = 1  # raise it when the same tokens would come in another order

if TYPE_CHECKING:
    from jaxlm.data.loader import TrainBatches


def prepare(config: DataConfig, progress: sources.Progress | None = None, verify: bool = False) -> "Dataset":
    """Reads, splits and tokenises the sources, or finds that done in the cache.

    Args:
        config: what data, and how.
        progress: called now and then with (done, total or None, unit) during long work.
        verify: read cached tokens from end to end and rebuild them if a byte changed; their sizes are always checked.

    Raises:
        UserError: what `sources.documents`, `tokenize.make_tokenizer` and `tokenize.make_shards` raise, and a source
            with too little training text for one row.
    """
    digests = [sources.digest(source.path, progress) for source in config.sources]
    tokenizer = tokenize.make_tokenizer(config, digests, progress)
    splits = [
        tokenize.make_shards(config, source, digest, tokenizer, progress, verify)
        for source, digest in zip(config.sources, digests)
    ]
    for source, (train, _) in zip(config.sources, splits):
        if train.tokens < config.T + 1:
            raise UserError(
                f"{source.path}: {train.tokens} training tokens are fewer than one row of T+1 = {config.T + 1}: "
                "lower data.T, or add text"
            )
        if train.tokens // config.T > MOST:
            raise UserError(
                f"{source.path}: {train.tokens} tokens are too many rows of data.T={config.T}: raise data.T"
            )
    train, heldout = zip(*splits)
    return Dataset(config, tokenizer, train, heldout)


@dataclass(frozen=True)
class Dataset:
    """Token streams of each source, in the order of `config.sources`. Made by `prepare`."""

    config: DataConfig
    tokenizer: Tokenizer
    train: tuple[Shards, ...]
    heldout: tuple[Shards, ...]

    @property
    def fingerprint(self) -> str:
        """A hash of the tokens, the mixture, T and the seed: where it agrees, a saved position means the same."""
        parts = [(shards.digest, source.weight) for shards, source in zip(self.train, self.config.sources)]
        content = json.dumps([ORDER, parts, self.config.T, self.config.seed, self.tokenizer.fingerprint])
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    @property
    def train_tokens(self) -> int:
        """Tokens of the training split, separators included."""
        return sum(shards.tokens for shards in self.train)

    @property
    def heldout_tokens(self) -> int:
        """Tokens of the held-out split, separators included."""
        return sum(shards.tokens for shards in self.heldout)

    @property
    def heldout_bytes(self) -> int:
        """UTF-8 bytes of the held-out text: what bits per byte are divided by."""
        return sum(shards.bytes for shards in self.heldout)

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text per token of the training split, separators included."""
        return sum(shards.bytes for shards in self.train) / self.train_tokens

    def summary(self, rows: int) -> str:
        """What a run that trains on `rows` rows has to read, see `data.summary`."""
        from jaxlm.data.summary import summary

        return summary(self, rows)

    def table(self, scores: Mapping[str, float], tokens: int = 0) -> str:
        """Scores on the held-out sample of `tokens` beside what has to be beaten, see `data.score_table`."""
        from jaxlm.data.baselines import score_table

        return score_table(self, scores, tokens)

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """What the sums of an objective over training text mean to people, see `text_measures`."""
        return text_measures(sums, self.bytes_per_token)

    def heldout_texts(self) -> Iterator[str]:
        """The held-out documents, decoded from their tokens; sources in an order that no config decides."""
        for shards in in_order(self.heldout):
            for ids in _split(shards.blocks(), self.tokenizer.eot):
                yield self.tokenizer.decode(ids)

    def train_batches(self, batch: int, rows: Sequence[int] | None = None) -> "TrainBatches":
        """Endless batches as `pack` makes them.

        Every epoch of a source has each of its rows once, in a new order; sources are mixed by weight, row by row.

        Args:
            batch: rows of the global batch, of T tokens each.
            rows: which of them to read, and in which order: one process of many reads those of its devices. None: all.

        Raises:
            UserError: a batch without rows.
        """
        from jaxlm.data.loader import TrainBatches, windows  # imports grain

        weights, eot = [source.weight for source in self.config.sources], self.tokenizer.eot
        stream = windows(self.train, weights, self.config.T, self.config.seed)
        told = functools.partial(with_words, tokenizer=self.tokenizer) if self.config.words else lambda batch: batch
        form = lambda rows: told(pack(rows, eot))
        return TrainBatches(stream, batch, rows_of(batch, rows), self.fingerprint, form)

    def heldout_rows(self, tokens: int = 0) -> HeldoutRows:
        """What to score a model on: all held-out rows, or as many as hold `tokens` labels, spread over every source."""
        return heldout_rows(self.heldout, self.config.T, self.tokenizer, tokens, self.config.words)

    def heldout_batches(self, batch: int, tokens: int = 0, rows: Sequence[int] | None = None) -> Iterator[Batch]:
        """The rows of `heldout_rows` in finite batches of one shape; what the text does not fill has weight 0.

        Arguments and errors as in `train_batches`.
        """
        return self.heldout_rows(tokens).batches(batch, rows_of(batch, rows))


def rows_of(batch: int, rows: Sequence[int] | None) -> Sequence[int]:
    """`rows` of a batch, all where it is None. Raises UserError for a batch without rows."""
    if not is_count(batch):
        raise UserError(f"a batch of {said(batch)} rows: it must be a positive integer below 2**31")
    rows = range(batch) if rows is None else rows
    if not rows or (rows != range(batch) and (min(rows) < 0 or max(rows) >= batch)):
        raise ValueError(f"rows {rows} are not some of the {batch} of a batch")
    return rows


def finite_batches(row: Callable[[int], Batch], count: int, batch: int, rows: Sequence[int]) -> Iterator[Batch]:
    """The `rows` of every `batch` of `count` rows, as `data.Heldout.batches` has it: what is beyond repeats the last,
    all its weights 0."""

    def one(i: int) -> Batch:
        if i < count:
            return row(i)
        return {name: np.zeros_like(x) if name.endswith("weights") else x for name, x in row(count - 1).items()}

    for start in range(0, count, batch):
        made = [one(start + i) for i in rows]
        yield {name: np.stack([each[name] for each in made]) for name in made[0]}


def _split(blocks: Iterator[np.ndarray], eot: int) -> Iterator[np.ndarray]:
    """The documents between the separators of a stream `[eot] document [eot] ... [eot]`."""
    parts: list[np.ndarray] | None = None  # of the document being read; None before the first separator
    for block in blocks:
        start = 0
        for end in np.flatnonzero(block == eot).tolist():
            if parts is not None:
                yield np.concatenate([*parts, block[start:end]])
            parts, start = [], end + 1
        if parts is not None:
            parts.append(block[start:])
