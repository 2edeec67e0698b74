"""Documents from files, one at a time: whatever the size of the collection, one document is held in memory.

| file | a document is |
|---|---|
| .txt, .txt.gz | the whole file |
| .jsonl, .jsonl.gz | the string `field` of the object on each line; a line has at most 64 MiB |
| .parquet | each value of the string column `field` |

All text is UTF-8; a byte order mark at the start of a file is dropped. Empty documents are passed over.
"""

import codecs
import contextlib
import glob
import gzip
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from jaxlm.data import corpus
from jaxlm.errors import UserError
from jaxlm.paths import expand
from jaxlm.text.base import utf8

Progress = Callable[[int, int | None, str], None]  # done, total or None if unknown, unit

SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet")
LINE_LIMIT = 64 * 2**20  # bytes
BLOCK = 2**22  # bytes between two reports of progress

Record = tuple[str, str, int]  # name, text, bytes of the file read so far


def documents(
    path: str, field: str = "text", limit: int | None = None, progress: Progress | None = None
) -> Iterator[tuple[str, str]]:
    """(name, text) of the documents of a file, a folder, a glob, or the collection "embedded".

    A folder is read with all below it, hidden names left out, sorted by path, as is a glob; both leave out files of
    other kinds. `limit` stops after so many bytes of text, within a document if need be.

    Raises:
        UserError: naming the file, and the line or the byte: nothing there, an unknown kind of file, not text, not
            UTF-8, not JSON, no such field or column, a line too long, or no document at all.
    """
    return corpus.take(_documents(path, field, find(path), limit, progress or (lambda *_: None)), limit)


def passages(path: str, field: str = "text", progress: Progress | None = None) -> Iterator[str]:
    """The text of the documents in passages of at most some megabytes, however long a document is.

    Text files are cut at line ends where they can be. A single file of another kind is read as text, and "-" is the
    standard input. Errors are those of `documents`.
    """
    heard, done = progress or (lambda *_: None), 0
    if path == "-":
        for text, at in _blocks("standard input", sys.stdin.buffer):
            yield text
            heard(at, None, "bytes read")
        return
    files = find(path) if not Path(path).is_file() or _kind(Path(path)) else [(path, Path(path))]
    total = sum(_size(file) for _, file in files)
    for name, file in files:
        if path == "embedded" or (_kind(file) or ".txt").startswith((".jsonl", ".parquet")):
            records = ((text, at) for _, text, at in _records(path, name, file, field, None))
        else:
            records = _text_blocks(file)
        for text, at in records:
            yield text
            heard(done + at, total, "bytes read")
        done += _size(file)


def _text_blocks(file: Path) -> Iterator[tuple[str, int]]:
    with _open(file) as (stream, raw):
        for text, _ in _blocks(str(file), stream):
            yield text, raw.tell()


def _blocks(where: str, stream: IO[bytes]) -> Iterator[tuple[str, int]]:
    """(text, bytes until its end) of about BLOCK bytes each."""
    held, offset = b"", 0
    while data := stream.read(BLOCK):
        data = held + data
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) >= BLOCK:  # one long line: cut before its last character
            begins = (at for at in range(len(data) - 4, len(data)) if data[at] & 0xC0 != 0x80)
            cut = max(begins, default=len(data))
        if not cut:
            held = data
            continue
        yield _decode(data[:cut], where, offset), offset + cut
        held, offset = data[cut:], offset + cut
    if held:
        yield _decode(held, where, offset), offset + len(held)


def find(path: str) -> list[tuple[str, Path]]:
    """(name, path) of the files that `documents` reads, in order. Raises UserError if there are none."""
    if path == "embedded":
        return corpus.files()
    base, known = expand(path), ", ".join(SUFFIXES)
    if base.is_dir():
        walk = ((Path(folder), _prune(folders), names) for folder, folders, names in os.walk(base, onerror=_refuse))
        found = [folder / name for folder, _, names in walk for name in names if not name.startswith(".")]
        found = [file for file in found if _kind(file)]
        if not found:
            raise UserError(f"{path}: no file of a known kind in this folder ({known})")
    elif base.is_file():
        if not _kind(base):
            raise UserError(f"{path}: unknown kind of file: use one of {known}")
        found = [base]
    elif base.exists():
        raise UserError(f"{path}: neither a file nor a folder")
    elif glob.has_magic(path):
        matches = [file for file in map(Path, glob.glob(str(base), recursive=True)) if file.is_file()]
        found = [file for file in matches if _kind(file)]
        if not found:
            raise UserError(f"{path}: matches {'no file' if not matches else f'no file of a known kind ({known})'}")
    else:
        raise UserError(f"{path}: no such file or folder")
    return [(str(file), file) for file in sorted(found)]


def digest(path: str, progress: Progress | None = None) -> str:
    """A hash of the contents of the files that `documents` reads; their names and places do not matter."""
    files = find(path)
    total = sum(_size(file) for _, file in files)
    done, content = 0, hashlib.blake2b(digest_size=16)
    for _, file in files:
        content.update(f"{_kind(file)} {_size(file)}\n".encode())
        with _open(file, unpack=False) as (stream, _):
            while block := stream.read(BLOCK):
                content.update(block)
                done += len(block)
                if progress:
                    progress(done, total, "bytes hashed")
    return content.hexdigest()


def _kind(file: Path) -> str | None:
    return next((suffix for suffix in SUFFIXES if file.name.lower().endswith(suffix)), None)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:  # a link to nothing
        raise UserError(f"{file}: cannot read it: {error.strerror}") from None


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot read this folder: {error.strerror}")


def _prune(folders: list[str]) -> None:
    folders[:] = [folder for folder in folders if not folder.startswith(".")]


def _documents(
    path: str, field: str, files: list[tuple[str, Path]], limit: int | None, progress: Progress
) -> Iterator[tuple[str, str]]:
    total = sum(_size(file) for _, file in files)
    base = reported = characters = 0
    for name, file in files:
        for document, text, at in _records(path, name, file, field, limit):
            if text:
                yield document, text
            characters += len(text)
            done, most = (base + at, total) if limit is None else (min(characters, limit), min(limit, total))
            if done - reported >= BLOCK:
                progress(done, most, "bytes read")
                reported = done
        base += _size(file)
    if not characters:
        raise UserError(f"{path}: no text here: " + ("the file is empty" if total == 0 else "every document is empty"))


def _records(path: str, name: str, file: Path, field: str, limit: int | None) -> Iterator[Record]:
    if path == "embedded":
        return ((*document, _size(file)) for document in corpus.read(name, file))
    kind = _kind(file) or ""
    if kind.startswith(".txt"):
        return _text(file, limit)
    return _jsonl(file, field) if kind.startswith(".jsonl") else _parquet(file, field)


@contextlib.contextmanager
def _open(file: Path, unpack: bool = True) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The (decompressed) bytes of a file, and the file itself to ask how far it was read."""
    try:
        with open(file, "rb") as raw:
            packed = unpack and file.suffix.lower() == ".gz"
            yield (gzip.GzipFile(fileobj=raw), raw) if packed else (raw, raw)  # pyright: ignore[reportReturnType]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{file}: not a whole gzip file: {error}") from None
    except OSError as error:
        raise UserError(f"{file}: cannot read it: {error.strerror or error}") from None


def _text(file: Path, limit: int | None) -> Iterator[Record]:
    with _open(file) as (stream, raw):
        data = stream.read() if limit is None else stream.read(limit + 4)
        cut = limit is not None and len(data) > limit
        position = raw.tell()
    yield str(file), _decode(data, str(file), 0, final=not cut), position


def _decode(data: bytes, where: str, offset: int, final: bool = True) -> str:
    if (at := data.find(b"\0")) >= 0:
        raise UserError(f"{where}: byte {offset + at} is NUL: a binary file, or text that is not UTF-8")
    if offset == 0 and data.startswith(codecs.BOM_UTF8):
        data, offset = data[3:], 3
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data, final)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {offset + error.start} is not UTF-8 ({error.reason})") from None


def _jsonl(file: Path, field: str) -> Iterator[Record]:
    with _open(file) as (stream, raw):
        number = offset = 0
        while line := stream.readline(LINE_LIMIT + 1):
            number += 1
            where = f"{file}:{number}"
            if len(line) > LINE_LIMIT:
                raise UserError(f"{where}: the line is longer than {LINE_LIMIT >> 20} MiB")
            text = _decode(line, where, offset)
            offset += len(line)
            if text.strip():
                yield where, _field(text, field, where), raw.tell()


def _field(line: str, field: str, where: str) -> str:
    try:
        record: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error.msg} at character {error.pos + 1}") from None
    except (ValueError, RecursionError) as error:  # integers of thousands of digits, thousands of brackets
        raise UserError(f"{where}: JSON that cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: a JSON {_named(record)}, not an object with the field {field!r}")
    if field not in record:
        names = ", ".join(map(repr, list(record)[:10])) or "none"
        raise UserError(f"{where}: no field {field!r} (it has {names}): set the source's field")
    if not isinstance(record[field], str):
        raise UserError(f"{where}: the field {field!r} is a JSON {_named(record[field])}, not a string")
    try:
        utf8(record[field])
    except UserError as error:
        raise UserError(f"{where}: field {field!r}: {error}") from None
    return record[field]


def _named(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _parquet(file: Path, field: str) -> Iterator[Record]:
    import pyarrow as pa  # heavy, and only this kind of file needs it
    import pyarrow.parquet as pq

    size = _size(file)
    try:
        with pq.ParquetFile(file) as table:
            schema = table.schema_arrow
            if field not in schema.names:
                names = ", ".join(map(repr, schema.names[:10]))
                raise UserError(f"{file}: no column {field!r} (it has {names}): set the source's field")
            kind = schema.field(field).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
                raise UserError(f"{file}: the column {field!r} holds {kind}, not strings")
            row = 0
            for batch in table.iter_batches(batch_size=128, columns=[field]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    yield f"{file}:{row}", text or "", size * row // max(table.metadata.num_rows, row)
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: the column {field!r} is not UTF-8 ({error.reason})") from None
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file}: cannot be read as parquet: {first}") from None
