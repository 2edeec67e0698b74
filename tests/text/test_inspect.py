"""Figures of tokenizers on texts, against counting by hand."""

from pathlib import Path

import pytest

from jaxlm import cli
from jaxlm.text import ByteTokenizer, FastTokenizer, Tokenizer, inspect
from jaxlm.text.formats import layout
from jaxlm.text.inspect import facts, longest, measure, plot, table, unreached


def words(*tokens: str, **model) -> FastTokenizer:
    """Whole words, split at spaces, and "?" for the others."""
    vocab = {token: i for i, token in enumerate(["?", *tokens])}
    level = {"type": "WordLevel", "vocab": vocab, "unk_token": "?", **model}
    tokenizer = FastTokenizer(layout.document(level, {}, pre_tokenizer={"type": "WhitespaceSplit"}))
    tokenizer.unk = 0
    return tokenizer


def test_counts_on_a_small_text() -> None:
    one = measure(words("el", "gato", "come"), ["el gato come ", "el ratón\n"])
    assert (one.tokens, one.words, one.bytes, one.characters) == (5, 5, 23, 22)
    assert (one.unknown, one.parts, one.used_V.tolist()) == (1, 0, [1, 2, 1, 1])
    assert one.fertility == 1 and one.row()["unknown"] == 0.2 and one.row()["unused"] == 0


def test_bytes_have_known_figures() -> None:
    one = measure(ByteTokenizer(), ["añós"])
    assert one.fertility == 6 and one.bytes_per_token == 1 and one.row()["parts of characters"] == 4 / 6


@pytest.mark.parametrize(
    ("text", "count"),
    [("don't stop", 3), ("año 2024, ¡sí!", 3), ("日本語の本", 5), ("สวัสดี", 4), ("नमस्ते दुनिया", 2), ("", 0), ("a日b", 3)],
)
def test_what_counts_as_a_word(text: str, count: int) -> None:
    assert measure(ByteTokenizer(), [text]).words == count


def test_longest_tokens_have_a_letter() -> None:
    tokenizer = words("gato", "------------", "cómoda", "él")
    assert [tokenizer.spell(i) for i in longest(tokenizer, 2)] == [" cómoda", " gato"]


def test_a_token_that_cannot_come_out_is_found() -> None:
    merges = [("a", "b"), ("b", "c"), ("a", "bc")]  # "a" + "bc" can never meet: "ab" goes first
    tokens = [*layout.byte_characters(), "ab", "bc", "abc"]
    split, level = layout.byte_level(layout.GPT2)
    model = layout.bpe({token: i for i, token in enumerate(tokens)}, merges)
    tokenizer = FastTokenizer(layout.document(model, {}, None, split, level))
    assert [tokenizer.spell(i) for i in unreached(tokenizer)] == ["abc"]


def test_tokenizers_made_here_reach_all_their_tokens(tokenizer: Tokenizer) -> None:
    unigrams = ("SentencePieceTokenizer", "UnigramTokenizer")  # have bytes whose characters are pieces
    assert unreached(tokenizer) == [] or type(tokenizer).__name__ in unigrams or tokenizer.token(1) == "<unk>"


def test_the_table_tells_the_facts(texts: list[str], trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained["bpe"]
    measured = {"one": measure(tokenizer, texts), "empty": measure(tokenizer, [])}
    told = facts(tokenizer, measured)
    assert told["V"] == 800 and told["special"] == {"<|endoftext|>": 0} and len(told["longest"]) == inspect.SHOWN
    ordinary = [i for i in range(800) if tokenizer.pieces[i]]
    assert told["unused"] == {"count": sum(measured["one"].used_V[i] == 0 for i in ordinary), "of": 799}
    text = table("mine", told)
    assert text.startswith("mine: 800 tokens (SentencePieceTokenizer)") and f"{measured['one'].tokens:,}" in text
    assert "\n  one " in text and "\n  empty " in text
    assert "unused" not in table("mine", facts(tokenizer, {}))


def test_the_plot_has_a_bar_for_each(tmp_path: Path, texts: list[str], trained: dict[str, Tokenizer]) -> None:
    measured = {name: {str(i): measure(one, texts[i : i + 1]) for i in range(6)} for name, one in trained.items()}
    plot(measured, tmp_path / "a.png")
    plot(measured, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes() != b""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str], trained: dict[str, Tokenizer]) -> None:
    for name in ("bpe", "unigram"):
        trained[name].save(tmp_path / name)
    (tmp_path / "es.txt").write_text("El gato come pescado.\n")
    paths = [str(tmp_path / name) for name in ("bpe", "unigram")]
    text, png = str(tmp_path / "es.txt"), str(tmp_path / "plot.png")
    assert cli.main(["tokenizer", "inspect", *paths, "--text", text, "--plot", png]) == 0
    printed = capsys.readouterr().out
    assert "bpe: 800 tokens" in printed and "unigram: 500 tokens" in printed and "es.txt" in printed
    assert Path(png).read_bytes()[:4] == b"\x89PNG"
    assert cli.main(["tokenizer", "inspect", paths[0], "--text", text, "--json"]) == 0
    assert '"words": 4' in capsys.readouterr().out
    for argv, message in [
        ([paths[0], "--plot", png], "--plot draws how tokenizers do on texts: give --text FILE"),
        ([str(tmp_path / "none")], "no such tokenizer file or folder"),
        ([paths[0], "--text", str(tmp_path / "none.txt")], "none.txt: no such file or folder"),
    ]:
        assert cli.main(["tokenizer", "inspect", *argv]) == 2
        assert message in capsys.readouterr().err
