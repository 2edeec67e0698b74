"""The stories of tokenizers that only look up."""

from pathlib import Path

import pytest

from jaxlm import cli
from jaxlm.errors import UserError
from jaxlm.text import ByteTokenizer, CharacterTokenizer, WordTokenizer, load_readable

TEXTS = ["el gato come el pez", "el pez, el mar"]


def test_the_training_story_counts() -> None:
    story = WordTokenizer.train(TEXTS, 5).story
    assert story is not None and story.words == (("el", 4), ("pez", 2), (",", 1)) and story.total == 10
    assert story.covered == 0.7
    assert [line.split() for line in str(story).splitlines()[1:]] == [
        ["4", "40.00%", "el"],
        ["2", "60.00%", "pez"],
        ["1", "70.00%", ","],
    ]
    letters = CharacterTokenizer.train(["b" * 3 + "".join(map(chr, range(0x400, 0x430)))], 45).story
    assert letters is not None and str(letters).endswith("... 13 more: 88.24% covered")


def test_words_and_characters_are_explained() -> None:
    words = WordTokenizer.train(TEXTS, 5)
    cells = words.explain("el gato, el").cells
    assert [(cell.text, cell.ids, cell.known) for cell in cells] == [
        ("el", (2,), True),
        ("gato", (1,), False),
        (",", (4,), True),
        ("el", (2,), True),
    ]
    assert str(words.explain("el gato")).splitlines() == ["el    2  el", "gato  1  <unk>  unknown"]
    characters = CharacterTokenizer.train(["el gato"], 9)
    assert [i for cell in characters.explain("ola\n").cells for i in cell.ids] == characters.encode("ola\n")


def test_bytes_are_explained() -> None:
    tokenizer = ByteTokenizer()
    told = tokenizer.explain("año")
    assert str(told).splitlines()[1] == "ñ  195 177  <0xC3> <0xB1>"
    assert [i for cell in told.cells for i in cell.ids] == tokenizer.encode("año")
    with pytest.raises(UserError, match="lone surrogate"):
        tokenizer.explain("\ud800")
    assert str(tokenizer.explain("")) == ""


def test_stories_are_drawn(tmp_path: Path) -> None:
    words = WordTokenizer.train(TEXTS, 5)
    long = " ".join(TEXTS * 10)
    drawn = [words.story, words.explain(long), words.explain(""), ByteTokenizer().explain("¿Qué $x$? 日本\U0001f600")]
    for at, story in enumerate(drawn):
        story.draw(tmp_path / f"{at}.png")
        story.draw(tmp_path / f"{at}-again.png")
        assert (tmp_path / f"{at}.png").read_bytes() == (tmp_path / f"{at}-again.png").read_bytes() != b""
    assert len(list(tmp_path.iterdir())) == 2 * len(drawn)


def test_every_kind_is_explained_from_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ByteTokenizer().save(tmp_path / "bytes")
    (tmp_path / "text.txt").write_text("el gato come pescado, el pescador pesca. " * 30)
    kinds = {"words": 9, "characters": 9, "bpe": 270, "unigram": 280, "wordpiece": 40}
    for kind, V in kinds.items():
        out, png = str(tmp_path / kind), str(tmp_path / f"{kind}.png")
        argv = ["--out", out, "--kind", kind, "--vocab-size", str(V), "--story", png]
        assert cli.main(["tokenizer", "train", str(tmp_path / "text.txt"), *argv]) == 0
        assert Path(png).read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()
    for kind in ("bytes", *kinds):
        readable = load_readable(tmp_path / kind)
        assert cli.main(["tokenizer", "encode", str(tmp_path / kind), "el gato", "--explain"]) == 0
        assert capsys.readouterr().out == f"{readable.explain('el gato')}\n"
