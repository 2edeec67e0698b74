import sysconfig
from pathlib import Path

import pytest

from jaxlm.data import corpus, documents, sources
from jaxlm.errors import UserError


def test_the_library_sources_and_the_language_reference_are_there() -> None:
    texts = dict(corpus.documents(limit=3_000_000))
    assert "def dataclass(" in texts["dataclasses.py"]
    names = [name for name, _ in corpus.files()]
    assert names == sorted(names) and len(names) > 500
    assert not any("site-packages" in name or "__pycache__" in name for name in names)
    topics = dict(corpus.read("pydoc_data/topics.py", dict(corpus.files())["pydoc_data/topics.py"]))
    assert '"assert" statement' in topics["pydoc_data/topics.py:assert"] and len(topics) > 50


def test_the_limit_is_exact_and_the_order_fixed() -> None:
    first, again = list(corpus.documents(limit=100_000)), list(documents("embedded", limit=100_000))
    assert first == again
    assert 99_990 < sum(len(text.encode()) for _, text in first) <= 100_000
    assert dict(first[:-1]).items() <= dict(corpus.documents(limit=200_000)).items()


def test_a_limit_inside_a_character_cuts_before_it() -> None:
    taken = list(corpus.take(iter([("a", "xy"), ("b", "z\u20acz"), ("c", "w")]), 5))
    assert taken == [("a", "xy"), ("b", "z")]
    assert list(corpus.take(iter([("a", "\u20ac")]), 2)) == []
    assert list(corpus.take(iter([("a", "ab"), ("b", "c")]), 2)) == [("a", "ab")]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def test_files_that_are_not_plain_text_are_left_out(library: Path) -> None:
    (library / "good.py").write_text("print()")
    (library / "empty.py").write_text("")
    (library / "latin.py").write_bytes(b"# -*- coding: latin-1 -*- \xe9")
    (library / "nul.py").write_bytes(b"a\0b")
    (library / "data.txt").write_text("no")
    (library / "site-packages").mkdir()
    (library / "site-packages" / "other.py").write_text("no")
    assert list(corpus.documents()) == [("good.py", "print()")]


def test_a_python_without_sources_is_said(library: Path) -> None:
    with pytest.raises(UserError, match="this Python has no library sources in"):
        documents("embedded")
    with pytest.raises(UserError, match="no library sources"):
        sources.digest("embedded")
