import dataclasses
import errno
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxlm.data import DataConfig, Source, TokenizerConfig, prepare, shards, sources, tokenize
from jaxlm.data.tokenize import hash_fraction
from jaxlm.errors import UserError
from jaxlm.text import ByteTokenizer, train_sentencepiece

BPE = TokenizerConfig("bpe", 320)


def config(path: str, cache: Path, **changes: Any) -> DataConfig:
    return dataclasses.replace(DataConfig(sources=(Source(path),), T=16, holdout=0.2, cache=str(cache)), **changes)


def cached(cache: Path) -> list[Path]:
    return sorted((cache / "tokens").iterdir())


def stamps(cache: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}


def test_the_stream_is_every_document_between_separators(folders: tuple[str, str], tmp_path: Path) -> None:
    dataset = prepare(config(folders[0], tmp_path))
    for split, held in ((dataset.train[0], False), (dataset.heldout[0], True)):
        texts = [text for _, text in sources.documents(folders[0]) if (hash_fraction(text) < 0.2) == held]
        stream = [256, *(i for text in texts for i in [*text.encode(), 256])]
        assert np.concatenate(list(split.blocks())).tolist() == stream
        assert split.documents == len(texts) > 0
        assert split.bytes == sum(len(text.encode()) for text in texts)


def test_encoding_in_batches_changes_nothing(
    folders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(config(folders[0], tmp_path / "a"))
    monkeypatch.setattr(tokenize, "BATCH", 300)
    assert prepare(config(folders[0], tmp_path / "b")).fingerprint == whole.fingerprint


def test_a_documents_side_depends_on_its_text_alone(tmp_path: Path) -> None:
    texts = [f"document {i}" for i in range(200)]

    def heldout(name: str, texts: list[str]) -> set[str]:
        (tmp_path / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return set(prepare(config(str(tmp_path / name), tmp_path / "cache")).heldout_texts())

    every = heldout("all.jsonl", texts)
    assert 20 < len(every) < 60
    assert heldout("reversed.jsonl", texts[::-1]) == every
    assert heldout("half.jsonl", texts[:100]) == every & set(texts[:100])
    assert heldout("twice.jsonl", texts * 2) == every
    assert abs(np.mean([hash_fraction(f"{i}") for i in range(4000)]) - 0.5) < 0.02


def parts(texts: list[str], holdout: float) -> list[tuple[str, bool]]:
    return list(tokenize.split(lambda: iter(texts), holdout))


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.mark.parametrize("texts", [["1"], ["a", "b"], ["x"] * 3], ids=str)
def test_texts_too_short_to_cut_are_refused(tmp_path: Path, texts: list[str]) -> None:
    said = "this one text is" if len(texts) == 1 else "these texts are"
    with pytest.raises(UserError, match=rf"a\.jsonl: {said} too short to hold a part of it out: add text"):
        prepare(config(write(tmp_path / "a.jsonl", texts), tmp_path / "cache", holdout=1e-9))
    assert cached(tmp_path / "cache") == []


LINES = "".join(f"line {i}\n" for i in range(200))  # 1690 characters


@pytest.mark.parametrize(
    ("texts", "holdout"),
    [
        ([LINES], 0.25),
        (["x" * 5000], 0.02),
        (["short\n" * 100 + "x" * 100_000], 0.02),  # a line break far before the wanted place
        (["short\n" * 100 + "x" * 100_000], 0.9),
        (["x" * 100_000 + "\n" + "y" * 10], 0.02),
        ([LINES] * 7, 0.1),  # identical: one hash for all
        ([f"document {i} " * 20 for i in range(10)], 0.001),  # so few that none is held out
        ([f"document {i} " * 20 for i in range(10)], 0.999),
        (["x" * 100_000, "y" * 100, "z" * 100], 0.5),
    ],
    ids=lambda value: str(value)[:20],
)
def test_few_texts_are_cut_where_hashes_would_divide_them_badly(texts: list[str], holdout: float) -> None:
    found = parts(texts, holdout)
    assert "".join(text for text, _ in found) == "".join(texts)
    sizes = {side: sum(len(text) for text, held in found if held == side) for side in (False, True)}
    wanted = holdout * sum(map(len, texts))
    assert min(sizes.values()) > 0 and 0.9 * wanted - 20 <= sizes[True] <= 1.6 * wanted + 20


def test_the_larger_part_is_trained_on_whatever_its_hash() -> None:
    large = next(text for i in range(999) if hash_fraction(text := f"{i}" * 500) < 0.02)
    small = [f"{i}" for i in range(20)]
    assert not any(hash_fraction(text) < 0.02 for text in small)
    found = parts([large, *small], 0.02)
    assert 0.01 < sum(len(text) for text, held in found if held) / len("".join([large, *small])) < 0.04


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("x" * 20, 10),
        ("xxxxxxx\n xxxxxxxxxxx", 8),
        ("xxxxxxx xxxxxxxxxxxx", 8),
        ("xxx\nxxxx xxxxxxxxxxx", 9),  # the line break is too far away
        ("xxxxxxxxxxxx\nxxxxxxx", 10),
        ("ab", 1),
    ],
)
def test_cut_near_the_wanted_place(text: str, at: int) -> None:
    assert tokenize.cut(text, 0.5) == at


def test_a_single_text_is_cut_at_a_line_and_its_end_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(LINES)
    dataset = prepare(config(str(tmp_path / "a.txt"), tmp_path / "cache", holdout=0.25))
    (heldout,) = dataset.heldout_texts()
    assert LINES.endswith(heldout) and heldout.startswith("line 15")
    assert dataset.train_tokens + dataset.heldout_tokens == len(LINES) + 4


def test_the_work_is_done_once(folders: tuple[str, str], tmp_path: Path) -> None:
    first = prepare(config(folders[0], tmp_path, tokenizer=BPE))
    before, reports = stamps(tmp_path), []
    again = prepare(config(folders[0], tmp_path, tokenizer=BPE), lambda *report: reports.append(report[2]))
    assert again.fingerprint == first.fingerprint and stamps(tmp_path) == before
    assert set(reports) == {"bytes hashed"}


def test_whatever_changes_the_tokens_is_another_cache(folders: tuple[str, str], tmp_path: Path) -> None:
    base = config(folders[0], tmp_path)
    variants = [
        base,
        config(folders[1], tmp_path),
        config(folders[0], tmp_path, holdout=0.3),
        config(folders[0], tmp_path, limit=3000),
        config(folders[0], tmp_path, tokenizer=BPE),
        config(folders[0], tmp_path, sources=(Source(folders[0], field="other"),)),
    ]
    prints = {prepare(variant).fingerprint for variant in variants}
    assert len(cached(tmp_path)) == 6 and len(prints) == 5  # the field means nothing to text files
    prepare(config(folders[0], tmp_path, T=8, seed=3))
    assert len(cached(tmp_path)) == 6


def test_changed_text_is_tokenised_anew(tmp_path: Path) -> None:
    for i in range(30):
        (tmp_path / f"{i}.txt").write_text(f"text {i} " * 10)
    before = prepare(config(str(tmp_path), tmp_path / "cache"))
    stat = (tmp_path / "3.txt").stat()
    (tmp_path / "3.txt").write_text("TEXT 3 " * 10)
    os.utime(tmp_path / "3.txt", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same time
    assert prepare(config(str(tmp_path), tmp_path / "cache")).fingerprint != before.fingerprint


def test_a_limit_is_bytes_of_each_source(folders: tuple[str, str], tmp_path: Path) -> None:
    both = config(folders[0], tmp_path, sources=(Source(folders[0]), Source(folders[1])), limit=3000)
    dataset = prepare(both)
    for train, heldout in zip(dataset.train, dataset.heldout):
        assert 2990 < train.bytes + heldout.bytes <= 3000


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_damaged_cache_is_rebuilt(folders: tuple[str, str], tmp_path: Path, split: str) -> None:
    first = prepare(config(folders[0], tmp_path))
    shard = cached(tmp_path)[0] / split / "tokens-00000.bin"
    good = shard.read_bytes()
    shard.write_bytes(good[:-2])
    assert prepare(config(folders[0], tmp_path)).fingerprint == first.fingerprint
    assert shard.read_bytes() == good
    shard.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    prepare(config(folders[0], tmp_path))
    assert shard.read_bytes() != good  # sizes agree
    prepare(config(folders[0], tmp_path), verify=True)
    assert shard.read_bytes() == good
    assert len(cached(tmp_path)) == 1


def test_a_trained_tokenizer_sees_training_text_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"document number {i} is about something, or {i % 7} other things" for i in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    seen: list[str] = []

    def train(texts, V, kind):
        seen.extend(texts)
        return train_sentencepiece(seen, V, kind)

    monkeypatch.setattr(tokenize, "train_sentencepiece", train)
    wanted = config(str(tmp_path / "a.jsonl"), tmp_path / "cache", holdout=0.5, tokenizer=TokenizerConfig("bpe", 300))
    dataset = prepare(wanted)
    held = set(dataset.heldout_texts())
    assert held and not held & set(seen)
    assert set(seen) == {text for text in texts if hash_fraction(text) >= 0.5}
    assert dataset.tokenizer.V == 300


def test_the_sample_is_bounded_and_does_not_depend_on_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tokenize.LIMITS, "bpe", 2000)
    texts = [f"{i:04d}" * 25 for i in range(200)]
    samples = []
    for name, order in (("a.jsonl", texts), ("b.jsonl", texts[::-1])):
        (tmp_path / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in order))
        samples.append(list(tokenize._sample(config(str(tmp_path / name), tmp_path, tokenizer=BPE), None)))
    assert samples[0] == samples[1]
    assert sum(map(len, samples[0])) == 2000
    both = config(
        "two", tmp_path, sources=tuple(Source(str(tmp_path / f"{n}.jsonl"), w) for n, w in (("a", 3), ("b", 1)))
    )
    assert sum(map(len, tokenize._sample(dataclasses.replace(both, tokenizer=BPE), None))) == 2000
    monkeypatch.setattr(sources, "documents", lambda *_: (("", f"{i}" * 1000) for i in range(2000)))
    tracemalloc.start()
    try:
        list(tokenize._sample(config("a", tmp_path, tokenizer=BPE), None))
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()
    monkeypatch.undo()
    monkeypatch.setitem(tokenize.LIMITS, "bpe", 2000)
    (tmp_path / "long.txt").write_text("x" * 5000)
    assert list(tokenize._sample(config(str(tmp_path / "long.txt"), tmp_path, tokenizer=BPE), None)) == ["x" * 2000]


def test_a_damaged_tokenizer_is_trained_again(folders: tuple[str, str], tmp_path: Path) -> None:
    first = prepare(config(folders[0], tmp_path, tokenizer=BPE))
    (model,) = (tmp_path / "tokenizers").rglob("tokenizer.model")
    good = model.read_bytes()
    for bad in (good[:-100], good.replace(b"delta", b"atled"), b""):
        model.write_bytes(bad)
        assert prepare(config(folders[0], tmp_path, tokenizer=BPE)).fingerprint == first.fingerprint
        assert model.read_bytes() == good


def test_a_tokenizer_of_ones_own(folders: tuple[str, str], tmp_path: Path) -> None:
    ByteTokenizer().save(tmp_path / "mine")
    wanted = TokenizerConfig("file", path=str(tmp_path / "mine"))
    assert prepare(config(folders[0], tmp_path, tokenizer=wanted)).tokenizer.V == 257
    with pytest.raises(UserError, match="absent: no such tokenizer"):
        prepare(config(folders[0], tmp_path, tokenizer=TokenizerConfig("file", path=str(tmp_path / "absent"))))


def test_large_vocabularies_are_stored_in_32_bits(
    folders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ByteTokenizer, "V", 70_000)
    assert prepare(config(folders[0], tmp_path)).train[0].dtype == np.dtype(np.uint32)


def test_a_full_disk_leaves_nothing_behind(
    folders: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None: ...

    monkeypatch.setattr(shards, "open", lambda *_: Full(), raising=False)
    with pytest.raises(UserError, match="the disk is full"):
        prepare(config(folders[0], tmp_path))
    assert cached(tmp_path) == []


def test_processes_may_build_at_once(folders: tuple[str, str], tmp_path: Path) -> None:
    code = (
        "import sys; from jaxlm.data import *\n"
        "source, cache = sys.argv[1:]\n"
        "config = DataConfig((Source(source),), TokenizerConfig('bpe', 320), T=16, holdout=0.2, cache=cache)\n"
        "print(prepare(config).fingerprint)"
    )
    command = [sys.executable, "-c", code, folders[0], str(tmp_path)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    results = [(*run.communicate(timeout=60), run.returncode) for run in runs]
    assert results == [results[0]] * 3 and results[0][1:] == ("", 0)
    assert prepare(config(folders[0], tmp_path, tokenizer=BPE)).fingerprint == results[0][0].strip()
    assert len(cached(tmp_path)) == len(list((tmp_path / "tokenizers").iterdir())) == 1
