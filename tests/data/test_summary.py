import dataclasses
from pathlib import Path

from jaxlm.data import DataConfig, Dataset, Source, prepare, summary


def test_one_source(dataset: Dataset) -> None:
    (train,), (held,) = dataset.train, dataset.heldout
    rows = (train.tokens - 1) // 16
    assert summary(dataset, 3 * rows).splitlines() == [
        f"{dataset.config.sources[0].path}: {train.documents} documents, {train.tokens:,} tokens to train on; "
        "3 epochs in this run",
        f"held out: {held.documents} documents, {held.tokens:,} tokens",
    ]


def test_a_mixture_has_a_line_a_source(mixture: Dataset) -> None:
    lines = summary(mixture, 100).splitlines()
    assert len(lines) == 3 and ["0.75 of the mixture" in line for line in lines] == [True, False, False]
    for line, share, shards in zip(lines, (0.75, 0.25), mixture.train):
        assert line.endswith(f"{100 * share / ((shards.tokens - 1) // 16):.3g} epochs in this run")
    assert f"{sum(shards.tokens for shards in mixture.heldout):,} tokens" in lines[2]


def test_what_a_folder_has_beside(tmp_path: Path, cache: str) -> None:
    (tmp_path / "a.txt").write_text("some text " * 50)
    for name in ("b.jsonl.zst", "c.jsonl.zst", "d.md"):
        (tmp_path / name).write_text("x")
    data = prepare(DataConfig((Source(str(tmp_path)),), T=8, holdout=0.2, cache=cache))
    lines = summary(data, 10).splitlines()
    assert lines[0].startswith(f"{tmp_path}: 1 document, ")
    assert lines[1] == f"{tmp_path}: 3 files passed over (2 .jsonl.zst, 1 .md)"
    alone = dataclasses.replace(data, config=DataConfig((Source(str(tmp_path / "a.txt")),), T=8))
    assert len(summary(alone, 1).splitlines()) == 2
