"""scripts/bleu: translations in order, both scores, bad input."""

import importlib.util
import sys
import types
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

from jaxlm.errors import UserError

PATH = str(Path(__file__).resolve().parents[1] / "scripts" / "bleu")


@pytest.fixture(scope="module")
def script():
    loader = SourceFileLoader("bleu_script", PATH)
    spec = importlib.util.spec_from_loader("bleu_script", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_translations_come_in_the_order_of_the_sources(script):
    sizes = []

    def generate(texts, max_new_tokens, sampler):
        sizes.append(len(texts))
        return types.SimpleNamespace(texts=[f" {text.upper()}\n" for text in texts])

    model = types.SimpleNamespace(generate=generate)
    assert script.translated(model, ["ccc", "a", "dd", "eeee", "b"], 2, 1.0, 8, 2) == ["CCC", "A", "DD", "EEEE", "B"]
    assert sizes == [2, 2, 2]


def test_both_scores(script):
    pytest.importorskip("sacrebleu", reason="pip install jaxlm[bleu]")
    said = ["A man sleeps on the bed.", "Two dogs run through the snow."]
    assert all(score == pytest.approx(100) for score in script.bleu(said, said).values())
    small = script.bleu([text.lower() for text in said], said)
    assert small["detokenised"] < 90 and small["lower-cased, tokenised"] == pytest.approx(100)
    with pytest.raises(UserError, match="1 translations, but 2 references"):
        script.bleu(said[:1], said)


def test_without_sacrebleu_it_says_so(script, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(UserError, match=r"pip install jaxlm\[bleu\]"):
        script.bleu(["a"], ["a"])


def test_files_that_do_not_fit(script, tmp_path):
    (tmp_path / "de").write_text("ein\nzwei\n")
    (tmp_path / "en").write_text("one\n")
    with pytest.raises(UserError, match=r"has 2 lines, .*en 1: they must agree"):
        script.main(["run", str(tmp_path / "de"), str(tmp_path / "en")])
    with pytest.raises(UserError, match="cannot be read as lines of text"):
        script.lines(str(tmp_path / "fr"))
