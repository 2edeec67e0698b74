import errno
import os
import time
from pathlib import Path

import pytest

from jaxlm.data.cache import STALE, build, cache_root
from jaxlm.errors import UserError


def make(folder: Path) -> None:
    (folder / "value").write_text("whole")


def valid(folder: Path) -> bool:
    return (folder / "value").is_file() and (folder / "value").read_text() == "whole"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_is_made_once(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "cache" / "key"
    assert build(final, make, valid) is True
    assert build(final, pytest.fail, valid) is False  # pyright: ignore[reportArgumentType]
    assert names(final.parent) == ["key"] and names(final) == ["value"]


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        make(folder)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        build(tmp_path / "key", fail, valid)
    assert names(tmp_path) == []


@pytest.mark.parametrize("damage", ["folder", "empty folder", "file"])
def test_what_is_damaged_is_replaced(tmp_path: Path, damage: str) -> None:
    final = tmp_path / "key"
    if damage == "file":
        final.write_text("not a folder")
    else:
        final.mkdir()
    if damage == "folder":
        (final / "value").write_text("hal")
    assert build(final, make, lambda folder: folder.is_dir() and valid(folder)) is True
    assert valid(final) and names(tmp_path) == ["key"]


def test_the_first_of_two_builders_wins(tmp_path: Path) -> None:
    inner: list[bool] = []

    def slow(folder: Path) -> None:
        make(folder)
        inner.append(build(tmp_path / "key", make, valid))  # another process, start to end
        (tmp_path / "key" / "mark").touch()

    assert build(tmp_path / "key", slow, valid) is False and inner == [True]
    assert names(tmp_path) == ["key"] and names(tmp_path / "key") == ["mark", "value"]


def test_leftovers_of_killed_builds_are_removed_when_old(tmp_path: Path) -> None:
    for name, age in (("key.tmp-old", STALE + 60), ("key.tmp-new", 60), ("other.tmp-old", STALE + 60)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").touch()
        for path in (tmp_path / name / "part", tmp_path / name):
            os.utime(path, (time.time() - age,) * 2)
    build(tmp_path / "key", make, valid)
    assert names(tmp_path) == ["key", "key.tmp-new", "other.tmp-old"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_the_users_to_mend(tmp_path: Path, code: int) -> None:
    def fill(folder: Path) -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises(UserError, match=r"the disk is full: free some space, or set data\.cache or JAXLM_CACHE"):
        build(tmp_path / "key", fill, valid)
    assert names(tmp_path) == []


def test_other_errors_are_not_hidden(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise OSError(errno.EIO, "input/output error")

    with pytest.raises(OSError, match="input/output error"):
        build(tmp_path / "key", fail, valid)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write the cache here \(Not a directory\): set data\.cache or"):
        build(tmp_path / "file" / "key", make, valid)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("JAXLM_CACHE", raising=False)
    assert cache_root() == Path("/home/somebody/.cache/jaxlm")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_root() == Path("/xdg/jaxlm")
    monkeypatch.setenv("JAXLM_CACHE", "~/own")
    assert cache_root() == Path("/home/somebody/own")
    assert cache_root("/given") == Path("/given")
