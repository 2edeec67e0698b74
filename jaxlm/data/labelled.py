"""Texts with labels: tables of them in tsv, csv and jsonl files, one text a row."""

import csv
import dataclasses
import gzip
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jaxlm.config_check import check
from jaxlm.data.cache import cache_root
from jaxlm.data.config import Data, TokenizerConfig
from jaxlm.data.dataset import finite_batches, rows_of
from jaxlm.data.examples import held_apart
from jaxlm.data.measures import spell, text_measures
from jaxlm.data.pack import Batch
from jaxlm.data.tokenize import opened, trained_tokenizer
from jaxlm.errors import UserError, nearest
from jaxlm.paths import expand
from jaxlm.text import Tokenizer
from jaxlm.text.truncate import truncated

if TYPE_CHECKING:
    from jaxlm.data.loader import TrainBatches

LONGEST = 2**20  # characters of a field
Example = tuple[str, int]  # a text and the number of its label


@dataclasses.dataclass(frozen=True)
class LabelledTexts(Data):
    """The rows of a table, each a text and one of `labels`.

    Files are .tsv, .csv (both with a first line that names the columns) or .jsonl, all also .gz. A text is cut after T
    tokens, special ones included, and padded on the right.

    Attributes:
        path: the file to train on.
        labels: how labels are spelled in the file, in the order of their classes.
        heldout: the file to evaluate on; "" holds out the share `holdout` of the other, chosen by a hash of the text.
        text, label: the names of the columns, or keys.
        tokenizer: as in `DataConfig`; one to be trained sees the texts to train on.
        T: positions of a row.
        seed: of the order of training rows.
        cache: folder of trained tokenizers, as in `DataConfig`.
    """

    path: str
    labels: tuple[str, ...]
    heldout: str = ""
    text: str = "sentence"
    label: str = "label"
    tokenizer: TokenizerConfig = TokenizerConfig()
    T: int = 64
    holdout: float = 0.1
    seed: int = 0
    cache: str | None = None

    unit: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        check(self, T=">= 3", seed=">= 0", holdout="(0, 1)")
        if not self.path or not self.labels:
            raise UserError("labelled texts need a path and the names of their labels")

    def prepare(self, progress: Any = None) -> "LabelledDataset":
        train = list(self.examples(self.path))
        if self.heldout:
            heldout = list(self.examples(self.heldout))
        else:
            train, heldout = held_apart(train, self.holdout, lambda example: example[0])
        for name, rows in ((self.path, train), (self.heldout or self.path, heldout)):
            if not rows:
                raise UserError(f"{name}: no {self.unit} is left to train and to evaluate on")
        return self.made()(self, self._tokenizer([text for text, _ in train]), train, heldout)

    def examples(self, path: str) -> Iterator[Any]:
        """The texts of a file with their labels."""
        return examples(self, path)

    @staticmethod
    def made() -> type["LabelledDataset"]:
        """What `prepare` gives."""
        return LabelledDataset

    def _tokenizer(self, texts: list[str]) -> Tokenizer:
        """One to be trained sees the texts to train on, and is cached."""
        wanted = self.tokenizer
        if wanted.kind in ("bytes", "file"):
            return opened(wanted)
        content = hashlib.blake2b(json.dumps([wanted.kind, wanted.V, texts]).encode(), digest_size=16).hexdigest()
        folder = cache_root(self.cache) / "tokenizers" / content
        return trained_tokenizer(folder, lambda: iter(texts), wanted)


def examples(config: LabelledTexts, path: str) -> Iterator[Example]:
    """The rows of a file. Raises UserError, naming the line, for one without the text or with an unknown label."""
    classes = {label: i for i, label in enumerate(config.labels)}
    for line, row in _rows(expand(path)):
        for column in (config.text, config.label):
            if not isinstance(row.get(column), str | int):
                there = ", ".join(map(str, row)) or "nothing"
                raise UserError(f"{path}, line {line}: no {column!r} there, but {there[:80]}")
        text, label = str(row[config.text]), str(row[config.label])
        if label not in classes:
            raise no_label(path, line, label, classes)
        yield text, classes[label]


def no_label(path: str, line: int, label: str, classes: Mapping[str, int]) -> UserError:
    near = nearest(label, classes)
    return UserError(
        f"{path}, line {line}: the label {label[:60]!r} is none of {', '.join(classes)}"
        + (f": did you mean {near!r}?" if near else "")
    )


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line, columns) of each row."""
    text = read_text(path)
    kind = path.suffixes[-2] if path.suffix == ".gz" and len(path.suffixes) > 1 else path.suffix
    if kind == ".jsonl":
        yield from _objects(path, text)
    elif kind in (".tsv", ".csv"):
        # In a tsv a quotation mark is one.
        how: Any = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == ".tsv" else {}
        csv.field_size_limit(LONGEST)
        reader = csv.DictReader(io.StringIO(text, newline=""), **how)
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}") from None
    else:
        raise UserError(f"{path}: labelled texts are read from .tsv, .csv and .jsonl files, also .gz")


def read_text(path: Path) -> str:
    """A file's text, unpacked where its name ends in .gz."""
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is no UTF-8 text: {error}") from None


def _objects(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, said in enumerate(text.split("\n"), 1):
        if not said.strip():
            continue
        try:
            row = json.loads(said)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {line}: not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {line}: a JSON object is wanted, not a {type(row).__name__}")
        yield line, row


@dataclasses.dataclass(frozen=True)
class LabelledDataset:
    """See `data.Prepared`."""

    config: LabelledTexts
    tokenizer: Tokenizer
    train: list[Example]
    heldout: list[Example]

    @property
    def fingerprint(self) -> str:
        c = self.config
        content = json.dumps([self.train, c.labels, c.T, c.seed, self.tokenizer.fingerprint])
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    def rows(self, examples: list[Example]) -> "LabelledRows":
        return LabelledRows(self.tokenizer, self.config.T, examples)

    def train_batches(self, batch: int, rows: Sequence[int] | None = None) -> "TrainBatches":
        """Endless: every epoch has each text once, in a new order."""
        from jaxlm.data.loader import TrainBatches, shuffled  # imports grain

        stream = shuffled(self.rows(self.train), self.config.seed)
        return TrainBatches(stream, batch, rows_of(batch, rows), self.fingerprint)

    def heldout_rows(self, tokens: int = 0) -> "LabelledRows":
        """All of them, or evenly chosen ones with about so many positions."""
        count = min(-(-tokens // self.config.T) or len(self.heldout), len(self.heldout))
        at = np.linspace(0, len(self.heldout) - 1, count).round().astype(int)
        return self.rows([self.heldout[i] for i in at])

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return text_measures(sums)

    @property
    def epoch(self) -> int:
        """Rows of one pass."""
        return len(self.train)

    def summary(self, rows: int) -> str:
        return (
            f"{self.config.path}: {len(self.train):,} texts to train on, {rows / len(self.train):.3g} epochs in this "
            f"run\nheld out: {len(self.heldout):,} texts"
        )

    def table(self, scores: Mapping[str, float], tokens: int = 0) -> str:
        counts = np.bincount([label for _, given in self.heldout for label in np.atleast_1d(given)], minlength=1)
        return f"held out: {spell(scores)} (the commonest label has {counts.max() / counts.sum():.4f})"


class LabelledRows:
    """Texts as rows of tokens, for grain and for `data.Heldout`."""

    def __init__(self, tokenizer: Tokenizer, T: int, examples: list[Example]) -> None:
        self._tokenizer, self._T, self._examples = tokenizer, T, examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Batch:
        text, label = self._examples[int(index)]
        ids = first(self._tokenizer, text, self._T)
        places = np.arange(self._T)
        segments = (places < len(ids)).astype(np.int32)
        return {
            "tokens": np.pad(np.array(ids, np.int32), (0, self._T - len(ids))),
            "segments": segments,
            "positions": (places * segments).astype(np.int32),
            "labels": np.array([label], np.int32),
            "weights": np.ones(1, np.float32),
        }

    def __repr__(self) -> str:
        return f"LabelledRows({len(self)}, T={self._T})"

    def batches(self, batch: int, rows: Sequence[int]) -> Iterator[Batch]:
        return finite_batches(self.__getitem__, len(self), batch, rows)

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return text_measures(sums)


def first(tokenizer: Tokenizer, text: str, T: int) -> list[int]:
    """At most T ids: special ones around the text where the tokenizer has them, else its `eot` before it, so that
    something stands first."""
    if not tokenizer.encode("", special=True):
        return [tokenizer.eot, *tokenizer.encode(text)][:T]
    return truncated(tokenizer, text, T)
