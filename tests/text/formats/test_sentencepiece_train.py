import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxlm.errors import UserError
from jaxlm.text import SentencePieceTokenizer, Tokenizer, train_sentencepiece


def test_the_vocabulary_has_the_size_asked_for(trained: dict[str, Tokenizer]) -> None:
    assert (trained["bpe"].V, trained["unigram"].V) == (800, 500)
    assert trained["bpe"].eot == trained["unigram"].eot == 0


def test_training_twice_gives_the_same_bytes(texts: list[str], trained: dict[str, SentencePieceTokenizer]) -> None:
    assert train_sentencepiece(texts, V=800).model == trained["bpe"].model
    again = train_sentencepiece(texts, V=500, kind="unigram", limit=60_000)
    assert again.model == trained["unigram"].model
    assert train_sentencepiece(texts[:20], V=800).model != trained["bpe"].model


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot restrict cores on this platform")
def test_the_number_of_cores_does_not_matter(tmp_path: Path, texts: list[str], trained: dict[str, Tokenizer]) -> None:
    (tmp_path / "text").write_text("\v".join(texts))
    code = (
        "import os, sys, pathlib; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from jaxlm.text import train_sentencepiece\n"
        "texts = pathlib.Path(sys.argv[1]).read_text().split('\\v')\n"
        "print(train_sentencepiece(texts, V=500, kind='unigram', limit=60_000).fingerprint)"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "text"], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == trained["unigram"].fingerprint


def test_training_is_quiet_and_leaves_no_files(
    texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train_sentencepiece([*texts[:40], "a\tb\0c\x01"], V=400)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_newlines_tabs_digits_and_runs_of_spaces_have_sensible_pieces(trained: dict[str, Tokenizer]) -> None:
    def pieces(kind: str, text: str) -> list[bytes]:
        return [trained[kind].pieces[i] for i in trained[kind].encode(text)]

    for kind in ("bpe", "unigram"):
        assert pieces(kind, "\n\t1234") == [b"\n", b"\t", b"1", b"2", b"3", b"4"]
        assert len(pieces(kind, "\n        ")) == 2
    assert len(trained["bpe"].encode("        return self.format_help()")) < 12


def test_a_small_vocabulary_of_many_characters_falls_back_to_bytes() -> None:
    text = "".join(chr(0x4E00 + i) for i in range(2000)) * 3
    tokenizer = train_sentencepiece([text, "abc abd abe " * 100], V=330)
    assert tokenizer.V == 330 and tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("mark", ["\t", "\0", "\u2581", "\u2585", "\n"])
def test_characters_the_trainer_trips_over_cost_no_text(texts: list[str], mark: str) -> None:
    plain = " ".join("\n".join(texts[:40]).split())
    marked = plain.replace(" ", f" {mark}")
    assert train_sentencepiece([marked], V=400).model == train_sentencepiece([plain.replace(" ", " \n")], V=400).model


def test_training_reads_no_more_than_the_limit(texts: list[str]) -> None:
    def endless():
        while True:
            yield from texts

    assert train_sentencepiece(endless(), V=400, limit=50_000).V == 400


@pytest.mark.parametrize(
    ("texts", "V", "kind", "message"),
    [
        (["abc"], 299, "bpe", "V=299 is too small for a bpe vocabulary: use at least 300"),
        (["hello world"] * 9, 5000, "bpe", r"V=5000 is more than this text supports: use at most \d+"),
        (["hello world"] * 9, 5000, "unigram", r"V=5000 is more than this text supports: use at most \d+"),
        ([], 400, "bpe", "no text to train a bpe tokenizer on"),
        (["", "\n"], 400, "unigram", "no text to train a unigram tokenizer on"),
        (["abc"], 400, "word", "unknown tokenizer kind 'word'"),
        (["a\ud800"], 400, "bpe", "lone surrogate"),
    ],
)
def test_what_cannot_be_trained_is_said(
    texts: list[str], V: int, kind: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=message):
        train_sentencepiece(texts, V=V, kind=kind)
    assert capfd.readouterr() == ("", "")
