"""What data to train on, as a value."""

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxlm.config_check import said
from jaxlm.config_tree import shorten
from jaxlm.errors import UserError, unknown
from jaxlm.text.formats.sentencepiece_train import LEAST_V

if TYPE_CHECKING:
    from jaxlm.data.dataset import Dataset
    from jaxlm.data.prepared import Prepared
    from jaxlm.data.sources import Progress

KINDS = ("bytes", "bpe", "unigram", "file")
MOST = 2**31 - 1  # of a length or a seed: more overflows the indices of libraries


def is_count(value: Any, most: int = MOST) -> bool:
    """Whether it is an int from 1 to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _check(good: bool, message: str) -> None:
    if not good:
        raise UserError(message)


@dataclass(frozen=True)
class Source:
    """One collection of documents.

    `path` is a file (.txt, .jsonl, .parquet, the first two also .gz), a folder or a glob of these, or "embedded", the
    sources of Python's own standard library. `weight` is its share of the training tokens, relative to the other
    sources. `field` is the key or column that holds the text in .jsonl and .parquet.
    """

    SHORT: ClassVar[str] = "path"  # what a plain text in an override means

    path: str = "embedded"
    weight: float = 1.0
    field: str = "text"

    def __post_init__(self) -> None:
        _check(_is_text(self.path), f"a data source's path must be text, not {said(self.path)}")
        good = type(self.weight) in (int, float) and 1e-15 <= self.weight <= 1e15  # sums and ratios stay finite
        why = f"weight must be a positive number, from 1e-15 to 1e15, not {said(self.weight)}"
        _check(good, f"data source {shorten(self.path)}: {why}")
        _check(_is_text(self.field), f"data source {shorten(self.path)}: field must be text, not {said(self.field)}")


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes tokens.

    `kind` is "bytes" (V = 257), "bpe" or "unigram" (SentencePiece, trained to `V` pieces on the training split), or
    "file" (what `jaxlm.load_tokenizer` finds at `path`, with its own vocabulary size; `V` is not used).
    """

    kind: str = "bytes"
    V: int = 257
    path: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise unknown("tokenizer kind", said(self.kind).strip("'"), KINDS)
        _check(is_count(self.V), f"tokenizer V must be a positive integer below 2**31, not {said(self.V)}")
        if self.kind == "bytes":
            _check(
                self.V == 257,
                f"the byte tokenizer has V=257, not {said(self.V)}: leave V, or set kind to bpe or unigram",
            )
        if self.kind in ("bpe", "unigram"):
            _check(self.V >= LEAST_V, f"V={said(self.V)} is too small for a {self.kind} tokenizer: set V, say to 4096")
        if self.kind == "file":
            _check(_is_text(self.path), "tokenizer kind 'file' needs a path")
        else:
            _check(self.path is None, f"tokenizer kind {said(self.kind)} takes no path: set kind to 'file' to load one")


class Data(abc.ABC):
    """What to train on: a frozen dataclass that can be prepared."""

    T: int  # positions of a row

    @abc.abstractmethod
    def prepare(self, progress: "Progress | None" = None) -> "Prepared":
        """Reads and converts it, or finds that done in a cache; `progress` is called now and then."""


@dataclass(frozen=True)
class DataConfig(Data):
    """Documents, tokenizer and window length.

    Attributes:
        sources: mixed by weight; several windows of one source are never mixed inside a row.
        tokenizer: shared by all sources.
        T: positions in a training row; a row reads T + 1 consecutive tokens.
        holdout: the share of documents kept for evaluation, chosen by a hash of their text; of a source of so few that
            this divides them badly, the share of each document, at its end.
        seed: of the order of training rows.
        limit: read at most so many bytes of text from each source; None reads all.
        cache: folder of tokenised data; None is `$JAXLM_CACHE`, else `jaxlm` in the user's cache folder.
        words: whether batches tell which tokens are one word, see `data.words`.
    """

    sources: tuple[Source, ...] = (Source(),)
    tokenizer: TokenizerConfig = TokenizerConfig()
    T: int = 256
    holdout: float = 0.02
    seed: int = 0
    limit: int | None = None
    cache: str | None = None
    words: bool = False

    def __post_init__(self) -> None:
        good = isinstance(self.sources, tuple) and all(isinstance(source, Source) for source in self.sources)
        _check(good and bool(self.sources), "data.sources must be a tuple with at least one Source")
        _check(is_count(self.T), f"data.T must be a positive integer below 2**31, not {said(self.T)}")
        good = isinstance(self.holdout, float) and 0 < self.holdout < 1
        _check(good, f"data.holdout must be between 0 and 1, say 0.02, not {said(self.holdout)}")
        good = type(self.seed) is int and 0 <= self.seed <= MOST
        _check(good, f"data.seed must be an integer from 0 to 2**31 - 1, not {said(self.seed)}")
        good = self.limit is None or is_count(self.limit, 2**62)
        _check(good, f"data.limit must be a number of bytes, not {said(self.limit)}")
        _check(self.cache is None or _is_text(self.cache), f"data.cache must be a folder, not {said(self.cache)}")

    def prepare(self, progress: "Progress | None" = None) -> "Dataset":
        from jaxlm.data.dataset import prepare

        return prepare(self, progress)
