"""What a run needs of its data, whatever it is: texts, pairs, images."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from jaxlm.data.pack import Batch
from jaxlm.text import Tokenizer


class Heldout(Protocol):
    """Rows to score a model on."""

    def batches(self, batch: int, rows: Sequence[int]) -> Iterator[Batch]:
        """The `rows` of every `batch` rows, in finite batches of one shape; what is beyond the data has weight 0."""
        ...

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """What an objective's sums over all of them mean to people."""
        ...


class Prepared(Protocol):
    """What `Data.prepare` returns."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Of its text, to write samples and to be kept beside the model."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides which rows come when: where it agrees, a saved position means the same."""
        ...

    def train_batches(self, batch: int, rows: Sequence[int] | None = None) -> Any:
        """Endless batches, see `data.loader.TrainBatches`."""

    def heldout_rows(self, tokens: int = 0) -> Heldout:
        """All held-out rows, or a fixed sample of about so many tokens."""
        ...

    def measures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """As `Heldout.measures`, of sums over training data."""
        ...

    def summary(self, rows: int) -> str:
        """What a run that trains on so many rows has to read, in a few lines."""
        ...

    def table(self, scores: Mapping[str, float], tokens: int = 0) -> str:
        """The scores at the end of a run beside what has to be beaten."""
        ...
