"""Which rows a model is scored on."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jaxlm.data import DataConfig, Dataset, Source, TokenizerConfig, prepare
from jaxlm.data.heldout import HeldoutRows, heldout_rows


def begins(rows: HeldoutRows) -> list[list[int]]:
    return [list(starts) for starts in rows.starts]


@pytest.fixture(scope="module")
def swapped(mixture: Dataset) -> Dataset:
    return prepare(dataclasses.replace(mixture.config, sources=mixture.config.sources[::-1]))


def test_all_rows_or_a_sample_of_the_size_asked_for(mixture: Dataset) -> None:
    every = mixture.heldout_rows()
    whole = sum(map(len, begins(every)))
    assert every.share == 1 and every.bytes == mixture.heldout_bytes
    assert every.labels == mixture.heldout_tokens - 2
    assert begins(mixture.heldout_rows(10**9)) == begins(mixture.heldout_rows(16 * whole)) == begins(every)
    few = mixture.heldout_rows(16 * 10 - 15)
    assert sum(map(len, begins(few))) == 10 and few.labels <= 160 and few.share == few.labels / every.labels


def test_a_sample_is_spread_over_every_source(mixture: Dataset) -> None:
    for tokens in (1, 100, 500):
        rows = mixture.heldout_rows(tokens)
        for shards, starts in zip(rows.splits, begins(rows)):
            gaps = np.diff([-16, *starts, shards.tokens])
            assert len(starts) and gaps.max() <= 2 * max(gaps.min(), 16) + shards.tokens / len(starts)
        share = [16 * len(starts) / shards.tokens for shards, starts in zip(rows.splits, begins(rows))]
        assert tokens == 1 or max(share) - min(share) < 0.15


def test_the_order_of_the_sources_does_not_matter(mixture: Dataset, swapped: Dataset) -> None:
    assert swapped.heldout[0].digest == mixture.heldout[1].digest != mixture.heldout[0].digest
    for tokens in (0, 200):
        one, two = (list(data.heldout_batches(8, tokens)) for data in (mixture, swapped))
        assert all((a[name] == b[name]).all() for a, b in zip(one, two, strict=True) for name in a)
        assert mixture.heldout_rows(tokens).bytes == swapped.heldout_rows(tokens).bytes
    assert list(mixture.heldout_texts()) == list(swapped.heldout_texts())


def test_the_batch_does_not_matter(mixture: Dataset) -> None:
    def labels(batch: int) -> list[int]:
        batches = mixture.heldout_batches(batch, 300)
        return [i for made in batches for i in made["labels"][made["weights"] > 0].tolist()]

    assert labels(1) == labels(3) == labels(1000) and len(labels(1)) == mixture.heldout_rows(300).labels


def test_bytes_are_those_of_the_sample(mixture: Dataset) -> None:
    rows = mixture.heldout_rows(300)
    labels = [i for made in mixture.heldout_batches(8, 300) for i in made["labels"][made["weights"] > 0].tolist()]
    assert rows.bytes == len(mixture.tokenizer.decode_bytes(labels)) < mixture.heldout_bytes


def test_bytes_of_a_sample_where_pieces_are_not_the_text(
    folders: tuple[str, str], cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer that puts a space before each document: its byte is not the text's."""
    bpe = TokenizerConfig("bpe", 320)
    data = prepare(DataConfig((Source(folders[0]),), bpe, T=4, holdout=0.2, cache=cache))
    monkeypatch.setattr(data.tokenizer, "byte_lengths_V", data.tokenizer.byte_lengths_V * 3)
    (shards,) = data.heldout
    halves = [heldout_rows(data.heldout, 4, data.tokenizer).starts[0][i::2] for i in (0, 1)]
    parts = [HeldoutRows((shards,), (half,), 4, data.tokenizer).bytes for half in halves]
    assert sum(parts) == pytest.approx(shards.bytes) and min(parts) > 0


def test_a_row_of_a_source_too_small_for_its_share(tmp_path: Path, cache: str) -> None:
    for name, size in (("large", 20_000), ("small", 60)):
        (tmp_path / f"{name}.txt").write_text("words and more\n" * (size // 15))
    paths = [Source(str(tmp_path / f"{name}.txt")) for name in ("large", "small")]
    data = prepare(DataConfig(tuple(paths), T=8, holdout=0.2, cache=cache))
    rows = data.heldout_rows(80)
    assert sorted(map(len, begins(rows))) == [1, 10] and rows.bytes > 80
