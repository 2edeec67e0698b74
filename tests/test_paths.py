"""Paths as people give them, at every entry."""

import os
from pathlib import Path

import pytest

import jaxlm
from jaxlm import config
from jaxlm.cli import main
from jaxlm.data import cache, files
from jaxlm.errors import UserError
from jaxlm.paths import expand
from jaxlm.text import ByteTokenizer
from tests import tiny


def test_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand("~/a") == Path("/home/me/a") and expand("a/~b") == Path("a/~b") and expand(Path("x")) == Path("x")


WRONG = ["~nobody-of-that-name/x", "", "a\0b", "a\ud800b", "x" * 300, "x/" * 5000, None, 5, b"x", ["x"]]


@pytest.mark.parametrize("path", WRONG, ids=lambda path: repr(path)[:12])
def test_what_is_no_path(path):
    with pytest.raises(UserError) as caught:
        expand(path)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


NOBODY = "~nobody-of-that-name/x"


@pytest.mark.parametrize(
    "entry",
    [
        lambda: jaxlm.load(NOBODY),
        lambda: jaxlm.load_tokenizer(NOBODY),
        lambda: ByteTokenizer().save(NOBODY),
        lambda: config.load(NOBODY),
        lambda: config.save(tiny.run(), NOBODY),
        lambda: config.resolve(f"{NOBODY}.py"),
        lambda: config.resolve(f"{NOBODY}.json"),
        lambda: config.resolve(NOBODY),
        lambda: files.find(NOBODY),
        lambda: cache.cache_root(NOBODY),
    ],
    ids=range(10),
)
def test_nobody_has_no_home(entry):
    with pytest.raises(UserError, match="no such user here"):
        entry()


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "quickstart", "--run", NOBODY],
        ["train", NOBODY],
        ["plan", NOBODY],
        ["generate", NOBODY, "--prompt", "x"],
        ["convert", NOBODY, "x"],
        ["tokenizer", "stats", NOBODY, "--text", NOBODY],
    ],
    ids=lambda argv: argv[0],
)
def test_the_command_says_so_in_one_line(argv, capsys):
    assert main(argv) == 2
    assert "no such user" in (err := capsys.readouterr().err) or argv[0] == "tokenizer"
    assert err.count("\n") == 1


def test_the_cache_of_the_environment(monkeypatch):
    for name in ("JAXLM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, NOBODY)
        with pytest.raises(UserError, match="no such user here"):
            cache.cache_root()
        monkeypatch.delenv(name)
    assert os.environ.get("JAXLM_CACHE") is None
