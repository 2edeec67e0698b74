"""Where the files of a source are found."""

import errno
import os
from pathlib import Path

import pytest

from jaxlm.data import files
from jaxlm.errors import UserError


def names(path: Path | str, base: Path) -> list[str]:
    return [file.relative_to(base).as_posix() for _, file in files.find(str(path)).files]


def fill(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    return folder


def test_linked_folders_are_read_once_and_circles_end(tmp_path: Path) -> None:
    base = fill(tmp_path / "base", "a/one.txt", "two.txt")
    fill(tmp_path / "far", "three.txt", "deep/four.txt")
    (base / "far").symlink_to(tmp_path / "far")
    (base / "far again").symlink_to(tmp_path / "far")
    (base / "a" / "self").symlink_to(base / "a")
    (base / "a" / "up").symlink_to("..")
    (base / "out").symlink_to(tmp_path)  # what the folder itself lies in
    (tmp_path / "far" / "back").symlink_to(base)
    (tmp_path / "far" / "own").symlink_to(".")
    want = ["a/one.txt", "far/deep/four.txt", "far/three.txt", "two.txt"]
    assert names(base, base) == names(base / "**", base) == names(base / "**/*.txt", base) == want
    assert names(base / "**/**/**/*.txt", base) == want
    assert names(base / "*/*.txt", base) == ["a/one.txt", "far/three.txt", "far again/three.txt"]
    assert names(base / "**/deep/*", base) == ["far/deep/four.txt"]
    assert names(base / "fa*/**/f*.txt", base) == ["far/deep/four.txt", "far again/deep/four.txt"]


def test_globs_match_as_in_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = fill(tmp_path, "a/b/c.txt", "a/.h/d.txt", "a/.e.txt", "f.txt", "[x]/g.txt", "a/b/n.md")
    assert names(base / "**/*.txt", base) == ["[x]/g.txt", "a/b/c.txt", "f.txt"]
    assert names(base / "**/.h/*.txt", base) == ["a/.h/d.txt"]
    assert names(base / "a/**/.*.txt", base) == ["a/.e.txt"]
    assert names(base / "[[]x]/**", base) == ["[x]/g.txt"]
    assert names(base / "?/**/[b-d].txt", base) == ["a/b/c.txt"]
    monkeypatch.chdir(base)
    assert [name for name, _ in files.find("**/c.txt").files] == ["a/b/c.txt"]
    assert [name for name, _ in files.find("a/**/c.txt").files] == ["a/b/c.txt"]


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    fill(tmp_path, "a.txt", "b.jsonl.zst", "c/d.jsonl.zst", "e.md", "f", ".hidden.md", "v1.2.json", "x.TXT.GZ")
    found = files.find(str(tmp_path))
    assert found.skipped == {".jsonl.zst": 2, ".md": 1, "without a suffix": 1, ".json": 1}
    assert files.find(str(tmp_path / "*")).skipped == {".jsonl.zst": 1, ".md": 1, "without a suffix": 1, ".json": 1}
    assert files.listed({f".{i}": 1000 - i for i in range(7)}) == "1,000 .0, 999 .1, 998 .2, 997 .3, 996 .4, ..."
    with pytest.raises(
        UserError, match=r"no file of a known kind in this folder \(\.txt, .*; there are 1 \.jsonl\.zst\)"
    ):
        files.find(str(tmp_path / "c"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("x" * 5000, "is too long for a path"),
        ("a\0b", "is no path"),
        ("a\0*", "is no path"),
        ("\ud800", "is no path"),
        ("\ud800/**", "is no path"),
        ("~nobody-of-this-name/**", "no such user here"),
        ("", "."),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_places_that_cannot_be(path: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        files.find(path)


def test_a_place_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="cannot read this folder: Permission denied"):
        files.find(str(tmp_path))
    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(UserError, match="cannot look there: Permission denied"):
        files.find(str(tmp_path))
