"""Documents from files, one at a time: whatever the size of the collection, one document is held in memory.

| file | a document is |
|---|---|
| .txt, .txt.gz | the whole file |
| .jsonl, .jsonl.gz | the string `field` of the object on each line; a line has at most 64 MiB |
| .parquet | each value of the string column `field` |

All text is UTF-8; a byte order mark at the start of a file is dropped. Empty documents and nulls are passed over.
"""

import codecs
import contextlib
import gzip
import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from jaxlm.data import corpus, files
from jaxlm.errors import UserError
from jaxlm.text.base import utf8

Progress = Callable[[int, int | None, str], None]  # done, total or None if unknown, unit

LINE_LIMIT = 64 * 2**20  # bytes
BLOCK = 2**22  # bytes between two reports of progress

Record = tuple[str, str, int]  # name, text, bytes of the file read so far


def documents(
    path: str, field: str = "text", limit: int | None = None, progress: Progress | None = None
) -> Iterator[tuple[str, str]]:
    """(name, text) of the documents of a file, a folder, a glob, or the collection "embedded".

    A folder is read with all below it, hidden names left out, sorted by path, as is a glob; links to folders are
    followed; both pass over files of other kinds (see `files.find`). `limit` stops after so many bytes of text, within
    a document if need be.

    Raises:
        UserError: naming the file, and the line or the byte: nothing there, an unknown kind of file, not text, not
            UTF-8, not JSON, no such field or column, a line too long, or no document at all.
    """
    return corpus.take(_documents(path, field, files.find(path).files, limit, progress or (lambda *_: None)), limit)


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
    found = files.find(path, any_kind=True).files
    total = sum(files.size(file) for _, file in found)
    for name, file in found:
        if path == "embedded" or (files.kind(file) or ".txt").startswith((".jsonl", ".parquet")):
            records = ((text, at) for _, text, at in _records(path, name, file, field, None))
        else:
            records = text_blocks(file)
        for text, at in records:
            yield text
            heard(done + at, total, "bytes read")
        done += files.size(file)


def text_blocks(file: Path) -> Iterator[tuple[str, int]]:
    """(text, bytes of the file read so far) of about BLOCK bytes each, cut at line ends where they can be."""
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


def digest(path: str, progress: Progress | None = None) -> str:
    """A hash of the contents of the files that `documents` reads; their names and places do not matter."""
    found = files.find(path).files
    total = sum(files.size(file) for _, file in found)
    done, content = 0, hashlib.blake2b(digest_size=16)
    for _, file in found:
        content.update(f"{files.kind(file)} {files.size(file)}\n".encode())
        with _open(file, unpack=False) as (stream, _):
            while block := stream.read(BLOCK):
                content.update(block)
                done += len(block)
                if progress:
                    progress(done, total, "bytes hashed")
    return content.hexdigest()


def _documents(
    path: str, field: str, found: list[tuple[str, Path]], limit: int | None, progress: Progress
) -> Iterator[tuple[str, str]]:
    total = sum(files.size(file) for _, file in found)
    base = reported = characters = 0
    for name, file in found:
        for document, text, at in _records(path, name, file, field, limit):
            if text:
                yield document, text
            characters += len(text)
            done, most = (base + at, total) if limit is None else (min(characters, limit), min(limit, total))
            if done - reported >= BLOCK:
                progress(done, most, "bytes read")
                reported = done
        base += files.size(file)
    if not characters:
        raise UserError(f"{path}: no text here: " + ("the file is empty" if total == 0 else "every document is empty"))


def _records(path: str, name: str, file: Path, field: str, limit: int | None) -> Iterator[Record]:
    if path == "embedded":
        return ((*document, files.size(file)) for document in corpus.read(name, file))
    kind = files.kind(file) or ""
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
    if record[field] is None:
        return ""
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

    size = files.size(file)
    try:
        with pq.ParquetFile(file) as table:
            schema = table.schema_arrow
            if field not in schema.names:
                names = ", ".join(map(repr, schema.names[:10]))
                raise UserError(f"{file}: no column {field!r} (it has {names}): set the source's field")
            kind = schema.field(field).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not (
                pa.types.is_string(kind)
                or pa.types.is_large_string(kind)
                or pa.types.is_string_view(kind)
                or pa.types.is_null(kind)
            ):
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
