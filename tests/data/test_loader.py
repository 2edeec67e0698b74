import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy as np
import pytest

from jaxlm.data import Dataset
from jaxlm.data.loader import Windows
from jaxlm.errors import UserError


def take(
    dataset: Dataset, count: int, batch: int = 8, rows: Sequence[int] | None = None
) -> list[dict[str, np.ndarray]]:
    with dataset.train_batches(batch, rows) as batches:
        return [next(batches) for _ in range(count)]


def rows(batches: list[dict[str, np.ndarray]]) -> list[tuple[int, ...]]:
    return [tuple(row) for batch in batches for row in np.c_[batch["tokens"], batch["labels"][:, -1:]].tolist()]


def every_row(dataset: Dataset, source: int = 0) -> list[tuple[int, ...]]:
    stream = np.concatenate(list(dataset.train[source].blocks())).tolist()
    T = dataset.config.T
    return [tuple(stream[start : start + T + 1]) for start in range(0, len(stream) - T, T)]


def test_windows_overlap_by_one_token(dataset: Dataset) -> None:
    source = Windows(dataset.train[0], 16)
    want = every_row(dataset)
    assert len(source) == len(want)
    assert [tuple(source[i].tolist()) for i in range(len(source))] == want


def test_every_epoch_has_each_row_once_in_a_new_order(dataset: Dataset) -> None:
    want = every_row(dataset)
    n = len(want)
    got = rows(take(dataset, 3 * n // 8 + 1))
    epochs = [got[epoch * n : (epoch + 1) * n] for epoch in range(3)]
    assert all(sorted(epoch) == sorted(want) for epoch in epochs)
    assert want != epochs[0] != epochs[1] != epochs[2]


def test_batches_are_as_pack_makes_them(dataset: Dataset) -> None:
    (batch,) = take(dataset, 1)
    assert {name: (array.shape, array.dtype.name) for name, array in batch.items()} == {
        "tokens": ((8, 16), "int32"),
        "labels": ((8, 16), "int32"),
        "segments": ((8, 16), "int32"),
        "positions": ((8, 16), "int32"),
        "weights": ((8, 16), "float32"),
    }
    np.testing.assert_array_equal(batch["tokens"][:, 1:], batch["labels"][:, :-1])
    assert batch["weights"].all() and batch["segments"].min() == 1


def test_fresh_iterators_agree_and_the_seed_matters(mixture: Dataset, dataset: Dataset) -> None:
    assert rows(take(mixture, 30)) == rows(take(mixture, 30))
    assert rows(take(_with(dataset, seed=1), 5)) != rows(take(dataset, 5))


def _with(dataset: Dataset, **changes: int) -> Dataset:
    return dataclasses.replace(dataset, config=dataclasses.replace(dataset.config, **changes))


@pytest.mark.parametrize("name", ["dataset", "mixture"])
@pytest.mark.parametrize("some", [[0, 1, 2, 3], [4, 5, 6, 7], [2, 3, 6, 7], [7, 0]], ids=str)
def test_any_rows_of_a_batch_are_those_of_the_whole(request: pytest.FixtureRequest, name: str, some: list[int]) -> None:
    data = request.getfixturevalue(name)
    for part, whole in zip(take(data, 40, rows=some), take(data, 40), strict=True):
        for key, array in whole.items():
            np.testing.assert_array_equal(part[key], array[some])


@pytest.mark.parametrize("name", ["dataset", "mixture"])
def test_a_batch_may_have_one_row(request: pytest.FixtureRequest, name: str) -> None:
    data = request.getfixturevalue(name)
    assert rows(take(data, 16, batch=1)) == rows(take(data, 2, batch=8))
    with data.train_batches(1) as batches:
        batches.set_state({"next_index": 2**40})
        assert next(batches)["tokens"].shape == (1, 16)


@pytest.mark.parametrize("name", ["dataset", "mixture"])
def test_resuming_equals_going_on(request: pytest.FixtureRequest, name: str) -> None:
    data = request.getfixturevalue(name)
    whole = rows(take(data, 100))
    for stop in (0, 1, 37, 90):
        with data.train_batches(8) as batches:
            for _ in range(stop):
                next(batches)
            state = json.loads(json.dumps(batches.get_state()))
            next(batches)
        assert state["next_index"] == stop and len(json.dumps(state)) < 120
        with data.train_batches(8) as batches:
            next(batches)
            batches.set_state(state)
            assert rows([next(batches) for _ in range(100 - stop)]) == whole[8 * stop :]


def test_a_run_may_resume_on_other_processes(mixture: Dataset) -> None:
    whole = take(mixture, 20)
    with mixture.train_batches(8, range(4, 8)) as batches:
        for _ in range(10):
            next(batches)
        state = batches.get_state()
    with mixture.train_batches(8, [6, 7]) as batches:
        batches.set_state(state)
        for batch in whole[10:]:
            np.testing.assert_array_equal(next(batches)["tokens"], batch["tokens"][6:])


def test_the_mixture_is_exact(mixture: Dataset) -> None:
    first = set(every_row(mixture, 0))
    got = rows(take(mixture, 100))
    assert sum(row in first for row in got) == 600
    assert abs(sum(row in first for row in got[:80]) - 60) <= 1


def test_states_of_other_data_are_refused(dataset: Dataset, mixture: Dataset) -> None:
    with dataset.train_batches(8) as batches, mixture.train_batches(8) as other, dataset.train_batches(4) as smaller:
        for state, message in (
            (other.get_state(), "belongs to other training data .fingerprint was"),
            (smaller.get_state(), "belongs to other training data .batch was 4, now 8"),
            ({}, "not a state of the training data"),
            ({"next_index": -1}, "not a state"),
            ({"next_index": "7"}, "not a state"),
            ({"next_index": True}, "not a state"),
            ({"next_index": 2**70}, "not a state"),
        ):
            with pytest.raises(UserError, match=message):
                batches.set_state(state)
        batches.set_state({"next_index": 3})
        assert batches.get_state()["next_index"] == 3


def test_a_batch_of_nothing_is_refused(dataset: Dataset) -> None:
    for batch in (0, -1, True, 1.5, "8", 2**31, 10**5000):
        with pytest.raises(UserError, match=r"a batch of .* rows: it must be a positive integer below"):
            dataset.train_batches(batch)  # pyright: ignore[reportArgumentType]
        with pytest.raises(UserError, match=r"a batch of .* rows"):
            dataset.heldout_batches(batch)  # pyright: ignore[reportArgumentType]
    for rows in ([], [8], [-1]):
        with pytest.raises(ValueError, match="are not some of the 8 of a batch"):
            dataset.train_batches(8, rows)


def test_waiting_is_counted(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Windows.__getitem__

    def sleepy(self: Windows, index: int) -> np.ndarray:
        time.sleep(0.02)
        return slow(self, index)

    with dataset.train_batches(8) as batches:
        assert batches.waited == 0
        next(batches)
        time.sleep(0.2)
        before = batches.waited
        next(batches)
        assert batches.waited - before < 0.1  # it was ready
    monkeypatch.setattr(Windows, "__getitem__", sleepy)
    with dataset.train_batches(8) as batches:
        next(batches)
        assert batches.waited > 0.1


def test_closed_batches_say_so(dataset: Dataset) -> None:
    batches = dataset.train_batches(8)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(ValueError, match="are closed"):
        next(batches)


@pytest.mark.parametrize("ending", ["", "batches.close()", "raise KeyboardInterrupt"])
def test_leaving_without_closing_is_clean(mixture: Dataset, folders: tuple[str, str], cache: str, ending: str) -> None:
    code = (
        "import sys; from jaxlm.data import *\n"
        "config = DataConfig((Source(sys.argv[1]),), T=16, holdout=0.2, cache=sys.argv[2])\n"
        f"batches = prepare(config).train_batches(8); next(batches)\n{ending}"
    )
    command = [sys.executable, "-W", "error", "-c", code, folders[0], cache]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "Keyboard" in ending:
        assert run.returncode in (-2, 130) and run.stderr.count("Traceback") == 1
    else:
        assert (run.returncode, run.stderr) == (0, "")
