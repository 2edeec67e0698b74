"""The data of a training run, prepared: token streams on disk, and the ways to read them."""

import hashlib
import json
from collections.abc import Iterator
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

    def train_batches(self, batch: int, process: int = 0, processes: int = 1) -> "TrainBatches":
        """Endless batches as `pack` makes them, `batch // processes` rows of T tokens each.

        Every epoch of a source has each of its rows once, in a new order; sources are mixed by weight, row by row. The
        rows of global batch i are the same for any number of processes.

        Args:
            batch: rows of the global batch.
            process, processes: which part of it to read.

        Raises:
            UserError: the batch does not divide over the processes.
        """
        from jaxlm.data.loader import TrainBatches  # imports grain

        _check_batch(batch, process, processes)
        return TrainBatches(
            self.train,
            [source.weight for source in self.config.sources],
            T=self.config.T,
            eot=self.tokenizer.eot,
            seed=self.config.seed,
            batch=batch,
            process=process,
            processes=processes,
            fingerprint=self.fingerprint,
        )

    def heldout_batches(
        self, batch: int, limit: int | None = None, process: int = 0, processes: int = 1
    ) -> Iterator[Batch]:
        """The held-out split in order: at most `limit` batches, every token but a source's first a label once.

        All batches have `batch // processes` rows; what the text does not fill has weight 0. Arguments and errors as
        in `train_batches`.
        """
        _check_batch(batch, process, processes)
        return self._heldout_batches(batch, limit, process, processes)

    def _heldout_batches(self, batch: int, limit: int | None, process: int, processes: int) -> Iterator[Batch]:
        T, eot = self.config.T, self.tokenizer.eot
        rows = [(shards, start) for shards in self.heldout for start in range(0, shards.tokens - 1, T)]
        for first in list(range(0, len(rows), batch))[:limit]:
            local = rows[first : first + batch][process::processes]
            windows = np.full((batch // processes, T + 1), eot, self.heldout[0].dtype)
            lengths = np.zeros(batch // processes, np.int32)
            for row, (shards, start) in enumerate(local):
                window = shards.window(start, T + 1)
                windows[row, : len(window)] = window
                lengths[row] = len(window) - 1
            yield pack(windows, eot, lengths)


def _check_batch(batch: int, process: int, processes: int) -> None:
    if not 0 <= process < processes:
        raise ValueError(f"process {process} is not one of {processes}")
    if batch < 1 or batch % processes:
        raise UserError(f"a batch of {batch} rows does not divide over {processes} processes: use a multiple")


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
