"""Rows of plain files: JSON lines, JSON, CSV, TSV, texts, packed with gzip zipped; each knows its place."""

import csv
import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxlm.errors import UserError
from jaxlm.paths import expand


class Row(dict):
    """A dict that says where it stands when a field is missing or of another kind."""

    def __init__(self, fields: dict[str, Any], place: str):
        super().__init__(fields)
        self.place = place

    def need(self, *names: str, kind: type | tuple[type, ...] = str) -> Any:
        """The first of these fields that is there. Raises UserError for none, or one of another kind."""
        for name in names:
            if name in self and self[name] is not None:
                if not isinstance(self[name], kind):
                    kinds = kind if isinstance(kind, tuple) else (kind,)
                    wanted = " or ".join(one.__name__ for one in kinds)
                    raise UserError(f"{self.place}: {name!r} must be {wanted}, not {type(self[name]).__name__}")
                return self[name]
        has = ", ".join(map(repr, self)) or "nothing"
        raise UserError(f"{self.place}: the field {' or '.join(map(repr, names))} is missing; it has {has}")

    def texts(self, *names: str) -> list[str]:
        """A field that is a list of texts, at least one."""
        found = self.need(*names, kind=list)
        if not found or not all(isinstance(one, str) for one in found):
            raise UserError(f"{self.place}: {names[0]!r} must be a list of texts, and not empty")
        return found


def rows(path: str | Path) -> list[Row]:
    """All rows of a file; of a folder and of a zip those of all its files. Raises UserError for what is none."""
    path = expand(path)
    try:
        names = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        found = [row for name in names for row in _of(str(name), name.read_bytes())]
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from None
    if not found:
        raise UserError(f"{path}: there are no items in it")
    return found


def _of(name: str, data: bytes) -> Iterator[Row]:
    try:
        if data[:2] == b"\x1f\x8b":
            return _of(name.removesuffix(".gz"), gzip.decompress(data))
        if data[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(data)) as packed:
                inside = [one for one in sorted(packed.namelist()) if not one.endswith("/")]
                return iter([row for one in inside for row in _of(f"{name}/{one}", packed.read(one))])
        text = data.decode("utf-8-sig")
    except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile):
        raise UserError(f"{name}: the packed file is damaged") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text: byte {error.start}") from None
    kind = Path(name).suffix.lower()
    if kind in (".csv", ".tsv"):
        return _table(name, text, "\t" if kind == ".tsv" else ",")
    return _json(name, text) if kind in (".json", ".jsonl") else iter([Row({"text": text, "name": name}, name)])


def _table(name: str, text: str, delimiter: str) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    for fields in reader:
        place = f"{name}:{reader.line_num}"
        if None in fields or None in fields.values():
            raise UserError(f"{place}: it has another number of columns than the first line")
        yield Row({**fields, "file": Path(name).stem}, place)


def _json(name: str, text: str) -> Iterator[Row]:
    if name.endswith(".jsonl"):
        lines = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    else:
        lines = [(0, text)]
    for i, line in lines:
        place = f"{name}:{i}" if i else name
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place} is not valid JSON: {error}") from None
        for at, one in enumerate(value if isinstance(value, list) and not i else [value]):
            if not isinstance(one, dict):
                raise UserError(f"{place}: an item must be an object, not {type(one).__name__}")
            yield Row({**one, "file": Path(name).stem}, f"{place}[{at}]" if isinstance(value, list) else place)
