"""The data of a training run, prepared: token streams on disk, and the ways to read them."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jaxlm.data import sources, tokenize
from jaxlm.data.config import DataConfig
from jaxlm.data.pack import Batch, pack
from jaxlm.data.shards import Shards
from jaxlm.errors import UserError
from jaxlm.text import Tokenizer

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
        content = json.dumps([tokenize.FORMAT, parts, self.config.T, self.config.seed, self.tokenizer.fingerprint])
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

    def heldout_texts(self) -> Iterator[str]:
        """The held-out documents in order, decoded from their tokens."""
        for shards in self.heldout:
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
        from jaxlm.data.loader import TrainBatches  # imports grain

        return TrainBatches(
            self.train,
            [source.weight for source in self.config.sources],
            T=self.config.T,
            eot=self.tokenizer.eot,
            seed=self.config.seed,
            batch=batch,
            rows=_rows(batch, rows),
            fingerprint=self.fingerprint,
        )

    def heldout_batches(
        self, batch: int, limit: int | None = None, rows: Sequence[int] | None = None
    ) -> Iterator[Batch]:
        """The held-out split in order: at most `limit` batches, every token but a source's first a label once.

        All batches have the same shape; what the text does not fill has weight 0. Arguments and errors as in
        `train_batches`.
        """
        return self._heldout_batches(batch, limit, _rows(batch, rows))

    def _heldout_batches(self, batch: int, limit: int | None, rows: Sequence[int]) -> Iterator[Batch]:
        T, eot = self.config.T, self.tokenizer.eot
        every = [(shards, start) for shards in self.heldout for start in range(0, shards.tokens - 1, T)]
        for first in list(range(0, len(every), batch))[:limit]:
            windows = np.full((len(rows), T + 1), eot, self.heldout[0].dtype)
            lengths = np.zeros(len(rows), np.int32)
            for row, at in enumerate(rows):
                if first + at >= len(every):
                    continue
                shards, start = every[first + at]
                window = shards.window(start, T + 1)
                windows[row, : len(window)] = window
                lengths[row] = len(window) - 1
            yield pack(windows, eot, lengths)


def _rows(batch: int, rows: Sequence[int] | None) -> Sequence[int]:
    if batch < 1:
        raise UserError(f"a batch of {batch} rows: it needs at least one")
    rows = range(batch) if rows is None else rows
    if not rows or min(rows) < 0 or max(rows) >= batch:
        raise ValueError(f"rows {rows} are not some of the {batch} of a batch")
    return rows


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
