"""Real text that every machine with Python has: the standard library's own sources and its language reference."""

import ast
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from jaxlm.errors import UserError

SKIPPED = {"site-packages", "dist-packages", "__pycache__", "lib-dynload"}
TOPICS = Path("pydoc_data") / "topics.py"  # the language reference, as a dict of texts


def files() -> list[tuple[str, Path]]:
    """(name, path) of every source file of the running Python's standard library, sorted by name.

    Raises:
        UserError: this Python comes without its sources.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED]
        paths = [Path(folder) / name for name in names if name.endswith(".py")]
        found += [(path.relative_to(root).as_posix(), path) for path in paths]
    if not found:
        raise UserError(
            f"this Python has no library sources in {root}, so there is no embedded corpus: name text files"
        )
    return sorted(found)


def documents(limit: int | None = None) -> Iterator[tuple[str, str]]:
    """(name, text) of each file and each topic of the reference, in a fixed order, at most `limit` bytes in all.

    Files that are empty, hold NUL or are not UTF-8 (the library tests its own decoder with some) are left out.
    """
    return take((document for name, path in files() for document in read(name, path)), limit)


def read(name: str, path: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of the documents in one file of `files()`."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return
    if name == TOPICS.as_posix():
        yield from _topics(name, text)
    elif text and "\0" not in text:
        yield name, text


def _topics(name: str, text: str) -> Iterator[tuple[str, str]]:
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for topic, body in ast.literal_eval(node.value).items():
                yield f"{name}:{topic}", body


def take(documents: Iterator[tuple[str, str]], limit: int | None) -> Iterator[tuple[str, str]]:
    """The first `limit` bytes of documents, the last one cut at a character; all of them for None."""
    left = float("inf") if limit is None else limit
    for name, text in documents:
        data = text.encode()
        if len(data) > left:
            text = data[: int(left)].decode("utf-8", "ignore")
        left -= len(data)
        if text:
            yield name, text
        if left <= 0:
            return
