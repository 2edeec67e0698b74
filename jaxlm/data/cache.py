"""A folder of derived data that appears whole or not at all."""

import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from jaxlm.errors import UserError
from jaxlm.paths import expand

STALE = 24 * 3600  # seconds without a write after which a temporary folder belongs to a build that was killed


def cache_root(cache: str | None = None) -> Path:
    """`cache` if given, else `$JAXLM_CACHE`, else `jaxlm` in `$XDG_CACHE_HOME`, else in `~/.cache`."""
    if name := cache or os.environ.get("JAXLM_CACHE"):
        return expand(name)
    return expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "jaxlm"


def build(final: Path, make: Callable[[Path], None], valid: Callable[[Path], bool]) -> bool:
    """Makes the folder `final` unless a valid one is there; returns whether it had to.

    `make` fills a temporary folder beside `final`, which is renamed. Two processes may build at once: the first to
    rename wins and the other's work is discarded. A damaged folder is put aside and replaced; who has it open keeps it.

    Raises:
        UserError: the disk is full, or the folder cannot be written.
    """
    if valid(final):
        return False
    temporary = _beside(final, "tmp")
    try:
        _make_folder(temporary)
        _remove_stale(final)
        make(temporary)
        while not _install(temporary, final):
            if valid(final):
                return False
            _put_aside(final)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = "the disk is full: free some space, or set data.cache or JAXLM_CACHE to another disk"
            raise UserError(f"{final.parent}: {message}") from None
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _beside(final: Path, kind: str) -> Path:
    return final.with_name(f"{final.name}.{kind}-{uuid.uuid4().hex[:12]}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        message = f"cannot write the cache here ({error.strerror}): set data.cache or JAXLM_CACHE to another folder"
        raise UserError(f"{folder.parent}: {message}") from None


def _install(temporary: Path, final: Path) -> bool:
    try:
        os.rename(temporary, final)
    except OSError:
        if not final.exists():  # not somebody else's folder in the way, but a real failure
            raise
        return False
    return True


def _put_aside(final: Path) -> None:
    aside = _beside(final, "bad")
    try:
        os.rename(final, aside)
    except FileNotFoundError:  # another process was faster
        return
    if aside.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink()


def _remove_stale(final: Path) -> None:
    """Temporary folders that killed builds of the same data left behind."""
    for folder in final.parent.glob(f"{final.name}.*-*"):
        try:
            newest = max(path.stat().st_mtime for path in [folder, *folder.rglob("*")])
        except FileNotFoundError:  # being renamed or removed just now
            continue
        if time.time() - newest > STALE:
            shutil.rmtree(folder, ignore_errors=True)
