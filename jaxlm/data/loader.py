"""Endless training batches: shuffled windows of the sources, mixed, of each batch the rows that are asked for, read
ahead by one thread."""

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxlm import compat
from jaxlm.data.pack import Batch
from jaxlm.data.shards import Shards
from jaxlm.errors import UserError

with compat.about_workers_unheard():
    import grain

AHEAD = 4  # batches made before they are asked for
ENDLESS = 2**52  # rows; grain divides lengths as floats, and what it says is endless would overflow


class Windows:
    """The rows of a token stream: windows of T + 1 tokens, each beginning with the last token of the one before."""

    def __init__(self, shards: Shards, T: int) -> None:
        self._shards, self._T = shards, T

    def __len__(self) -> int:
        return (self._shards.tokens - 1) // self._T

    def __getitem__(self, index: int) -> np.ndarray:
        return self._shards.window(int(index) * self._T, self._T + 1)

    def __repr__(self) -> str:
        return f"Windows({self._shards.folder.name}, T={self._T})"


def windows(shards: Sequence[Shards], weights: Sequence[float], T: int, seed: int) -> Any:
    """The endless stream of rows of token streams: each shuffled anew every epoch, mixed by weight."""
    streams = [shuffled(Windows(shard, T), seed + 1_000_003 * i) for i, shard in enumerate(shards)]
    return grain.MapDataset.mix(streams, weights=list(weights)) if len(streams) > 1 else streams[0]


def shuffled(rows: Any, seed: int) -> Any:
    """The endless stream of these rows, shuffled anew every epoch."""
    return grain.MapDataset.source(rows).seed(seed % 2**32).shuffle().repeat()


class Part:
    """The elements at `rows` of every `batch` consecutive elements of `whole`."""

    def __init__(self, whole: Any, batch: int, rows: Sequence[int]) -> None:
        self._whole, self._batch, self._rows = whole, batch, rows

    def __len__(self) -> int:
        return min(len(self._whole) // self._batch * len(self._rows), ENDLESS)

    def __getitem__(self, index: int) -> Any:
        group, row = divmod(int(index), len(self._rows))
        return self._whole[group * self._batch + self._rows[row]]

    def __repr__(self) -> str:
        return f"Part({len(self._rows)} of {self._batch})"


class TrainBatches:
    """An iterator over some rows of every global batch, for ever. Close it, or use it in a `with`.

    `waited` is the total time in seconds that `next` blocked: input starvation. The state is small, plain JSON, counts
    batches, and is the same on every process; a run may resume with it on another number of processes.
    """

    def __init__(
        self, stream: Any, batch: int, rows: Sequence[int], fingerprint: str, form: Callable[[Any], Batch] | None = None
    ) -> None:
        """`stream` is an endless sequence of rows: arrays, or dicts of arrays; `form` makes a batch of stacked ones."""
        # Chosen after all shuffling and mixing: row r of batch i is the same one, whoever reads it.
        local = grain.MapDataset.source(Part(stream, batch, rows)).batch(len(rows))
        local = local if form is None else local.map(form)
        # No reader threads: with memory maps they only wait for the interpreter lock (a tenth of the speed).
        ahead = grain.experimental.ThreadPrefetchIterDataset(
            local.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)), prefetch_buffer_size=AHEAD
        )
        self._identity = {"batch": batch, "fingerprint": fingerprint}
        self._holder = [iter(ahead)]
        # A prefetch thread still alive when the interpreter exits aborts it.
        self._finalizer = weakref.finalize(self, _close, self._holder)
        self.waited = 0.0

    def __iter__(self) -> "TrainBatches":
        return self

    def __enter__(self) -> "TrainBatches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the thread that reads ahead."""
        self._finalizer()

    def __next__(self) -> Batch:
        start = time.perf_counter()
        try:
            return next(self._iterator())
        finally:
            self.waited += time.perf_counter() - start

    def get_state(self) -> dict[str, Any]:
        """What `set_state` needs to go on with the next batch: `next_index`, and what it belongs to."""
        return {"next_index": int(self._iterator().get_state()["next_index"])} | self._identity

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to where `get_state` was called; `{"next_index": n}` alone goes to batch n.

        Raises:
            UserError: not such a state, or one of other data, another mixture, or another batch size.
        """
        at = state.get("next_index")
        if not isinstance(at, int) or isinstance(at, bool) or not 0 <= at < ENDLESS // self._identity["batch"]:
            raise UserError(f"not a state of the training data: {state}")
        for key, value in self._identity.items():
            if state.get(key, value) != value:
                raise UserError(
                    f"the saved position belongs to other training data ({key} was {state[key]}, now {value}): "
                    "resume with the same data, window length, seed and batch size"
                )
        self._iterator().set_state({"next_index": at})

    def _iterator(self) -> Any:
        if not self._holder:
            raise ValueError("these training batches are closed")
        return self._holder[0]


def _close(holder: list[Any]) -> None:
    while holder:
        holder.pop().close()
