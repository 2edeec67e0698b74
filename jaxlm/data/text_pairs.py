"""Pairs of texts: a source and its target, such as a sentence and its translation."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxlm.config_check import check
from jaxlm.data import cache, read_pairs, tokenize
from jaxlm.data.config import Data, TokenizerConfig
from jaxlm.data.dataset import finite_batches, rows_of
from jaxlm.data.examples import held_apart
from jaxlm.data.measures import spell, text_measures
from jaxlm.data.pack import Batch
from jaxlm.errors import UserError
from jaxlm.text import Tokenizer

if TYPE_CHECKING:
    from jaxlm.data.loader import TrainBatches
    from jaxlm.data.sources import Progress

Pair = tuple[str, str]
OPEN = 64  # rows that may still take a pair
ORDER = 2  # raise it when the same pairs would come in another order


@dataclasses.dataclass(frozen=True)
class TextPairs(Data):
    """Pairs of lines of two files, or the rows of a .tsv or .jsonl, each packed with .gz or not; held in memory.

    One tokenizer serves both sides: the source is as its `special` encodes it, the target begins after the token `eot`,
    which starts every text, and ends with `eos`. A row holds as many pairs as fit, those of one segment on both sides
    belonging together. Pairs of which a side is empty, or has more than T tokens, are left out.
    """

    source: str  # a file of sources, one a line; or a .tsv or .jsonl with both
    target: str = ""  # the file of targets, line by line those of `source`
    heldout_source: str = ""  # files of the same form to evaluate on; "": a share of the pairs
    heldout_target: str = ""
    columns: tuple[int, int] = (0, 1)  # of source and target in a .tsv, from 0
    fields: tuple[str, str] = ("source", "target")  # their keys in a .jsonl
    lower: bool = False  # all letters become small ones
    tokenizer: TokenizerConfig = TokenizerConfig(kind="bpe", V=8000)
    T: int = 64  # positions of a row's sources, and of its targets
    holdout: float = 0.02  # the share of pairs kept for evaluation, by a hash of the source
    seed: int = 0  # of the order of training rows
    cache: str | None = None  # of a tokenizer that is trained, see `DataConfig`

    packs = True  # several pairs a row

    def __post_init__(self) -> None:
        check(self, T=">= 2", holdout="(0, 1)", seed=">= 0")
        if not self.source:
            raise UserError("data.source must name a file of sources, or one with sources and targets")
        if bool(self.heldout_target) != bool(self.heldout_source and self.target):
            raise UserError(
                "data.heldout_source and data.heldout_target must be files of the form of the training pairs"
            )

    def prepare(self, progress: "Progress | None" = None) -> "PairDataset":
        read = lambda source, target: read_pairs.read(source, target, self.columns, self.fields)
        train, heldout = read(self.source, self.target), []
        if self.heldout_source:
            heldout = read(self.heldout_source, self.heldout_target)
        else:
            train, heldout = held_apart(train, self.holdout, lambda pair: pair[0])
        if self.lower:
            train, heldout = ([(a.lower(), b.lower()) for a, b in pairs] for pairs in (train, heldout))
        if not train or not heldout:
            raise UserError(f"{self.source}: too few pairs to train on some and hold out others: give heldout files")
        tokenizer = _tokenizer(self, train)
        encoded = [self.encoded(pairs, tokenizer) for pairs in (train, heldout)]
        return PairDataset(self, tokenizer, encoded[0], encoded[1], len(train))

    def encoded(self, pairs: Sequence[Pair], tokenizer: Tokenizer) -> "Encoded":
        return _encoded(pairs, tokenizer, self.T)


def _tokenizer(config: TextPairs, train: Sequence[Pair]) -> Tokenizer:
    """The tokenizer of the config; one to be trained sees both sides of the training pairs, and is cached."""
    content = hashlib.blake2b(json.dumps(train).encode(), digest_size=16).hexdigest()
    texts = lambda: (text for pair in train for text in pair)
    return tokenize.from_config(config.tokenizer, cache.cache_root(config.cache), ["pairs", content], texts)


Encoded = list[tuple[np.ndarray, np.ndarray]]


def _encoded(pairs: Sequence[Pair], tokenizer: Tokenizer, T: int) -> Encoded:
    """The tokens of both sides, without those that start and end a target, of pairs that fit."""
    sources = tokenizer.encode_batch([source for source, _ in pairs], special=True, literal=True)
    targets = tokenizer.encode_batch([target for _, target in pairs], literal=True)
    fit = [(a, b) for a, b in zip(sources, targets) if len(a) <= T and len(b) < T]
    if not fit:
        raise UserError(f"no pair has at most T={T} tokens on each side: raise data.T")
    return [(np.array(a, np.int32), np.array(b, np.int32)) for a, b in fit]


@dataclasses.dataclass(frozen=True)
class PairDataset:
    """See `data.Prepared`. `read` counts the training pairs before long ones were left out."""

    config: TextPairs
    tokenizer: Tokenizer
    train: Encoded
    heldout: Encoded
    read: int

    @property
    def fingerprint(self) -> str:
        """A hash of the tokens, T and the seed."""
        content = hashlib.blake2b(digest_size=16)
        content.update(json.dumps([ORDER, self.config.T, self.config.seed, self.tokenizer.fingerprint]).encode())
        for pair in self.train:
            for side in pair:
                content.update(len(side).to_bytes(4, "little") + side.tobytes())
        return content.hexdigest()

    def train_batches(self, batch: int, rows: Sequence[int] | None = None) -> "TrainBatches":
        from jaxlm.data.loader import TrainBatches, shuffled  # imports grain

        stream = shuffled(Rows(self.train, self.tokenizer, self.config.T, self.config.seed), self.config.seed)
        return TrainBatches(stream, batch, rows_of(batch, rows), self.fingerprint)

    def heldout_rows(self, tokens: int = 0) -> "HeldoutPairs":
        """All of them, or the first that have about so many target positions."""
        rows = Rows(self.heldout, self.tokenizer, self.config.T)
        return HeldoutPairs(rows, min(-(-tokens // self.config.T) or len(rows), len(rows)))

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return text_measures(sums)

    @property
    def epoch(self) -> int:
        """Rows of one pass."""
        return len(Rows(self.train, self.tokenizer, self.config.T, self.config.seed))

    def summary(self, rows: int) -> str:
        long = self.read - len(self.train)
        out = f" ({long:,} longer than T={self.config.T} left out)" if long else ""
        made = self.epoch
        epochs = f"{rows / made:.1f} epochs of {made:,} rows"
        return f"{len(self.train):,} pairs to train on{out}, {epochs}; {len(self.heldout):,} held out"

    def table(self, scores: Mapping[str, float], tokens: int = 0) -> str:
        return "held out: " + spell(scores)


class Rows:
    """Packed rows of encoded pairs, for grain; with a `seed` neighbours are drawn anew."""

    def __init__(self, pairs: Encoded, tokenizer: Tokenizer, T: int, seed: int | None = None) -> None:
        end = tokenizer.eot if tokenizer.eos is None else tokenizer.eos
        self._pairs, self._ends, self._T = pairs, (tokenizer.eot, end), T
        order = range(len(pairs)) if seed is None else np.random.default_rng(seed).permutation(len(pairs)).tolist()
        self._groups = grouped([(len(pairs[i][0]), len(pairs[i][1]) + 1) for i in order], T)
        self._groups = [[order[i] for i in group] for group in self._groups]

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> Batch:
        return pairs_row([self._pairs[i] for i in self._groups[int(index)]], *self._ends, self._T)


def grouped(sizes: Sequence[tuple[int, int]], T: int) -> list[list[int]]:
    """Which pairs share a row: each goes to the first of the last few rows that has room for both of its sides."""
    rows: list[list[int]] = []
    room: list[list[int]] = []
    for i, (source, target) in enumerate(sizes):
        near = range(max(len(rows) - OPEN, 0), len(rows))
        at = next((r for r in near if room[r][0] >= source and room[r][1] >= target), len(rows))
        if at == len(rows):
            rows.append([])
            room.append([T, T])
        rows[at].append(i)
        room[at] = [room[at][0] - source, room[at][1] - target]
    return rows


def pairs_row(pairs: Encoded, start: int, end: int, T: int) -> Batch:
    """A training row of several pairs, one after the other on both sides, numbered from 1 by their segments."""
    pad = lambda parts: np.pad(np.concatenate(parts), (0, T - sum(map(len, parts)))).astype(np.int32)
    sources, row = [source for source, _ in pairs], {}
    tokens, labels = [[start, *target] for _, target in pairs], [[*target, end] for _, target in pairs]
    for prefix, parts in (("source_", sources), ("", labels)):
        row[f"{prefix}segments"] = pad([np.full(len(part), i) for i, part in enumerate(parts, 1)])
        row[f"{prefix}positions"] = pad([np.arange(len(part)) for part in parts])
    row |= {"source": pad(sources), "tokens": pad(tokens), "labels": pad(labels)}
    return row | {"weights": (row["segments"] > 0).astype(np.float32)}


@dataclasses.dataclass(frozen=True)
class HeldoutPairs:
    """See `data.Heldout`."""

    rows: Rows
    count: int

    def batches(self, batch: int, rows: Sequence[int]) -> Iterator[Batch]:
        return finite_batches(self.rows.__getitem__, self.count, batch, rows)

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return text_measures(sums)
