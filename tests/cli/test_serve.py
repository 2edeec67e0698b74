import pytest

import jaxlm
from jaxlm.cli import main

pytest.importorskip("starlette", reason="needs starlette: pip install 'jaxlm[serve]'")

from tests.serve import servers


def test_no_public_server_without_a_key(capsys, monkeypatch):
    monkeypatch.delenv("JAXLM_API_KEY", raising=False)
    for host in ("0.0.0.0", "::", "example.org"):
        assert main(["serve", "nowhere", "--host", host]) == 2
        assert "JAXLM_API_KEY" in capsys.readouterr().err
    assert main(["serve", "nowhere"]) == 2 and "nowhere" in capsys.readouterr().err


def test_a_chat_in_the_terminal(capsys, monkeypatch):
    lines = iter(["hello", "/again", "", "/new", "/again", "x"])

    def read(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(jaxlm, "load", lambda path: servers.lm(), raising=False)
    monkeypatch.setattr("builtins.input", read)
    assert main(["chat", "tiny", "--temperature", "0", "--max-new-tokens", "4"]) == 0
    out = capsys.readouterr().out
    said = servers.lm().generate(["hello"], 4).texts[0]
    assert "no chat template" in out and out.count(said) == 2


@pytest.mark.parametrize("think", ["yes", "no"])
def test_a_chat_that_thinks_first_or_not(capsys, monkeypatch, think):
    """What was thought stays apart: the template writes it or leaves it out."""
    lines, asked = iter(["hello", "and"]), []

    class Model:
        tokenizer = servers.lm().tokenizer

        def stream(self, text, *how):
            asked.append(text)
            yield from ["<think>", "hm</think>\n\n", "yes"] if think == "yes" else ["yes"]

    def read(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(jaxlm, "load", lambda path: Model(), raising=False)
    monkeypatch.setattr("builtins.input", read)
    assert main(["chat", "tiny", "--template", "qwen3", "--think", think]) == 0
    assert ("<think>\n\n</think>" in asked[0]) is (think == "no")
    assert "yes<|im_end|>" in asked[1] and "hm" not in asked[1]  # of earlier turns Qwen3 keeps answers alone
    assert "yes" in capsys.readouterr().out
