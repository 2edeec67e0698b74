"""Paths as people give them."""

import os
from pathlib import Path
from typing import Any

from jaxlm.errors import UserError

LONGEST, LONGEST_PATH = 255, 4095  # bytes of a name, and of a whole path


def expand(path: Any) -> Path:
    """`path`, text or a path, with the home folder that a leading `~` or `~name` stands for.

    Raises UserError for an unknown user's home, and for what can be no path: an empty name, NUL, half a character.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"a path must be text, not {path!r:.80}")
    text = os.fspath(path)
    shown = f"{str(text)[:80]!r}"
    if isinstance(text, bytes) or not text or "\0" in text:
        raise UserError(f"{shown} is no path: give the name of a file or folder")
    try:
        longest = max(map(len, os.fsencode(text).split(os.fsencode(os.sep))))
    except UnicodeEncodeError:
        raise UserError(f"{shown} is no path: it has half a character in it") from None
    if longest > LONGEST or len(text) > LONGEST_PATH:
        raise UserError(f"{shown}... is too long for a path")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{shown}: no such user here: write the folder in full, or ./~name") from None
