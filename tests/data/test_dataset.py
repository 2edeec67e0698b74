import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jaxlm.data import DataConfig, Dataset, Source, prepare, sources
from jaxlm.data.tokenize import hash_fraction
from jaxlm.errors import UserError


def labels(batches: list[dict[str, np.ndarray]]) -> list[int]:
    return [i for batch in batches for i in batch["labels"][batch["weights"] > 0].tolist()]


def stream(dataset: Dataset, source: int) -> list[int]:
    return np.concatenate(list(dataset.heldout[source].blocks())).tolist()


@pytest.mark.parametrize("batch", [1, 3, 8, 1000])
def test_every_heldout_token_is_a_label_once(mixture: Dataset, batch: int) -> None:
    batches = list(mixture.heldout_batches(batch))
    assert labels(batches) in [stream(mixture, i)[1:] + stream(mixture, 1 - i)[1:] for i in (0, 1)]
    assert mixture.heldout_tokens == len(labels(batches)) + 2
    assert {array.shape for made in batches for array in made.values()} == {(batch, 16)}


@pytest.mark.parametrize(("short", "count"), [(1, 1), (2, 2), (0, 1)])
def test_a_row_is_begun_only_for_a_label(dataset: Dataset, short: int, count: int) -> None:
    exact = dataclasses.replace(dataset, config=dataclasses.replace(dataset.config, T=dataset.heldout_tokens - short))
    assert len(list(exact.heldout_batches(1))) == count


def test_heldout_padding_has_no_weight_segment_or_position(mixture: Dataset) -> None:
    last = list(mixture.heldout_batches(1000))[-1]
    padding = last["weights"] == 0
    assert padding.any() and (padding == (last["segments"] == 0)).all()
    assert (last["positions"][padding] == 0).all()
    assert (last["tokens"][padding] == 256).all()


def test_heldout_rows_read_what_training_rows_would(mixture: Dataset) -> None:
    first = next(mixture.heldout_batches(4))
    assert first["tokens"].ravel().tolist() in [stream(mixture, i)[:64] for i in (0, 1)]
    np.testing.assert_array_equal(first["tokens"][:, 1:], first["labels"][:, :-1])


@pytest.mark.parametrize("some", [[0, 1, 2, 3], [4, 5, 6, 7], [2, 3, 6, 7]], ids=str)
def test_any_rows_of_a_heldout_batch_are_those_of_the_whole(mixture: Dataset, some: list[int]) -> None:
    for part, whole in zip(mixture.heldout_batches(8, rows=some), mixture.heldout_batches(8), strict=True):
        for name, array in whole.items():
            np.testing.assert_array_equal(part[name], array[some])


def test_counts_are_of_the_text(dataset: Dataset, folders: tuple[str, str]) -> None:
    texts = [text for _, text in sources.documents(folders[0])]
    held = [text for text in texts if hash_fraction(text) < 0.2]
    size = sum(len(text.encode()) for text in texts)
    assert list(dataset.heldout_texts()) == held
    assert dataset.heldout_bytes == sum(len(text.encode()) for text in held)
    assert dataset.heldout_tokens == dataset.heldout_bytes + len(held) + 1
    assert dataset.train_tokens == size - dataset.heldout_bytes + len(texts) - len(held) + 1
    assert dataset.bytes_per_token == (size - dataset.heldout_bytes) / dataset.train_tokens


def test_heldout_texts_join_across_blocks(mixture: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(mixture.heldout_texts())
    monkeypatch.setattr("jaxlm.data.shards.BLOCK", 7)
    assert list(mixture.heldout_texts()) == whole
    assert len(whole) == sum(shards.documents for shards in mixture.heldout)


def test_the_fingerprint_is_of_what_a_position_means(
    dataset: Dataset, folders: tuple[str, str], tmp_path: Path, cache: str
) -> None:
    same = prepare(dataclasses.replace(dataset.config, cache=str(tmp_path)))
    assert same.fingerprint == dataset.fingerprint
    one, two = (Source(folder) for folder in folders)
    changes = [
        {"T": 8},
        {"seed": 1},
        {"holdout": 0.3},
        {"limit": 3000},
        {"sources": (two,)},
        {"sources": (one, two)},
        {"sources": (two, one)},
        {"sources": (one, dataclasses.replace(two, weight=2.0))},
    ]
    prints = [prepare(dataclasses.replace(dataset.config, **change)).fingerprint for change in changes]
    assert len({dataset.fingerprint, *prints}) == len(changes) + 1


def test_a_source_shorter_than_a_row_is_refused(folders: tuple[str, str], cache: str) -> None:
    with pytest.raises(
        UserError, match=r"two: \d+ training tokens are fewer than one row of T\+1 = 1000001: lower data.T"
    ):
        prepare(DataConfig(sources=(Source(folders[1]),), T=1_000_000, holdout=0.2, cache=cache))


def test_the_shortest_source_allowed_has_one_row(folders: tuple[str, str], cache: str) -> None:
    config = DataConfig(sources=(Source(folders[1]),), T=16, holdout=0.2, cache=cache)
    T = prepare(config).train_tokens - 1
    dataset = prepare(dataclasses.replace(config, T=T))
    with dataset.train_batches(2) as batches:
        batch = next(batches)
    assert batch["tokens"].shape == (2, T) and (batch["tokens"][0] == batch["tokens"][1]).all()
    with pytest.raises(UserError, match="fewer than one row"):
        prepare(dataclasses.replace(config, T=T + 1))


def test_the_embedded_corpus_is_ready_to_train_on(cache: str) -> None:
    dataset = prepare(DataConfig(limit=500_000, holdout=0.3, cache=cache))
    assert 500_000 < dataset.train_tokens + dataset.heldout_tokens < 501_000
    with dataset.train_batches(4) as batches:
        batch = next(batches)
    assert "self" in dataset.tokenizer.decode(batch["tokens"].ravel(), skip_special=True)
