"""The files of a source: one file, or those of a folder or a glob, and what was passed over there."""

import collections
import fnmatch
import functools
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxlm.data import corpus
from jaxlm.errors import UserError
from jaxlm.paths import expand

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet")
PACKED = (".gz", ".zst", ".bz2", ".xz", ".lz4", ".zip")  # said together with what stands before them


@dataclass(frozen=True)
class Found:
    """(name, path) of the files to read, in order, and how many files of which other kinds were passed over."""

    files: list[tuple[str, Path]]
    skipped: dict[str, int] = field(default_factory=dict)


def find(path: str, any_kind: bool = False) -> Found:
    """The files of a source; with `any_kind` a file that is named alone may be of any kind.

    Raises:
        UserError: there are none, or a place cannot be looked into.
    """
    if path == "embedded":
        return Found(corpus.files())
    known = ", ".join(SUFFIXES)
    try:
        base = expand(path)
        if base.is_dir():
            found, kind_of_place = list(_walk(base)), "no file of a known kind in this folder"
        elif base.is_file():
            if not kind(base) and not any_kind:
                raise UserError(f"{path}: unknown kind of file: use one of {known}")
            return Found([(str(base), base)])
        elif base.exists():
            raise UserError(f"{path}: neither a file nor a folder")
        elif glob.has_magic(path):
            found, kind_of_place = _glob(base), "matches no file of a known kind"
            if not found:
                raise UserError(f"{path}: matches no file")
        else:
            raise UserError(f"{path}: no such file or folder")
    except OSError as error:
        raise UserError(f"{path}: cannot look there: {error.strerror}") from None
    others = collections.Counter(_suffix(file) for file in found if not kind(file))
    files = [(str(file), file) for file in sorted(found) if kind(file)]
    if not files:
        there = f"; there are {listed(others)}" if others else ""
        raise UserError(f"{path}: {kind_of_place} ({known}{there})")
    return Found(files, dict(others.most_common()))


def kind(file: Path) -> str | None:
    """Which of `SUFFIXES` the file has."""
    return next((suffix for suffix in SUFFIXES if file.name.lower().endswith(suffix)), None)


def size(file: Path) -> int:
    """In bytes. Raises UserError if it cannot be read."""
    try:
        return file.stat().st_size
    except OSError as error:  # a link to nothing
        raise UserError(f"{file}: cannot read it: {error.strerror}") from None


def listed(skipped: dict[str, int]) -> str:
    """ "3 .jsonl.zst, 1 .md", the commonest first, at most five."""
    shown = [f"{count:,} {suffix}" for suffix, count in list(skipped.items())[:5]]
    return ", ".join([*shown, "..."] if len(skipped) > 5 else shown)


def _suffix(file: Path) -> str:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if not suffixes:
        return "without a suffix"
    return "".join(suffixes[-2:])[-20:] if suffixes[-1] in PACKED else suffixes[-1][-20:]


def _walk(base: Path, hidden: bool = False) -> Iterator[Path]:
    """All files below a folder, links to folders followed, but each folder once and never to one that it lies in."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(base, onerror=_refuse, followlinks=True):
        place = os.path.realpath(folder)
        around = os.path.realpath(os.path.dirname(folder)) if Path(folder) != base else ""
        if place in seen or (around + os.sep).startswith(place.rstrip(os.sep) + os.sep):
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
        yield from (Path(folder) / name for name in names if hidden or not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot read this folder: {error.strerror}")


def _glob(pattern: Path) -> list[Path]:
    """The files that match, as `glob.glob` finds them; below `**` by `_walk`, since links may lead in circles."""
    parts = pattern.parts
    if "**" not in parts:
        return [file for file in map(Path, glob.glob(str(pattern))) if file.is_file()]
    at = parts.index("**")
    head, rest = Path(*parts[:at]), parts[at:]
    bases = map(Path, glob.glob(str(head))) if glob.has_magic(str(head)) else [head]
    hidden = any(part.startswith(".") for part in rest)
    found = (
        file
        for base in bases
        if base.is_dir()
        for file in _walk(base, hidden)
        if _matches(file.relative_to(base).parts, rest) and (file.is_symlink() or file.is_file())
    )
    return list(dict.fromkeys(found))


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a pattern; `**` is any number of them, and names with a dot in front
    only match what has one too."""

    @functools.cache
    def match(i: int, j: int) -> bool:
        if j == len(pattern):
            return i == len(parts)
        if pattern[j] == "**":
            return match(i, j + 1) or (i < len(parts) and not parts[i].startswith(".") and match(i + 1, j))
        if i == len(parts) or (parts[i].startswith(".") and not pattern[j].startswith(".")):
            return False
        return fnmatch.fnmatchcase(parts[i], pattern[j]) and match(i + 1, j + 1)

    return match(0, 0)
