"""Pairs of texts from files: lines of two, or the rows of one .tsv or .jsonl."""

import itertools
import json

from jaxlm.data import files, sources
from jaxlm.errors import UserError

Pair = tuple[str, str]


def read(source: str, target: str, columns: tuple[int, int], fields: tuple[str, str]) -> list[Pair]:
    """All pairs of two files, or of one (`target` is ""), in order; those with an empty side are left out.

    Raises:
        UserError: naming the file and the line: two files of unequal length, a row without these columns or fields,
            and what `sources.passages` raises.
    """
    if target:
        pairs = _aligned(source, target)
    elif source.removesuffix(".gz").endswith(".tsv"):
        pairs = [_row(line, columns, f"{source}:{i}") for i, line in enumerate(_lines(source), 1) if line]
    elif source.removesuffix(".gz").endswith(".jsonl"):
        pairs = [_object(line, fields, f"{source}:{i}") for i, line in enumerate(_lines(source), 1) if line.strip()]
    else:
        raise UserError(f"{source}: give the file of its targets too (data.target), or a .tsv or .jsonl with both")
    found = [(a.strip(), b.strip()) for a, b in pairs]
    found = [pair for pair in found if all(pair)]
    if not found:
        raise UserError(f"{source}: no pairs here")
    return found


def _lines(path: str) -> list[str]:
    lines = "".join(_text(path)).split("\n")  # no other mark ends a line: the two sides must agree
    return [line.removesuffix("\r") for line in (lines[:-1] if not lines[-1] else lines)]


def _text(path: str) -> list[str]:
    found = files.find(path, any_kind=True).files
    if len(found) != 1:
        raise UserError(f"{path}: pairs are read from a file, and these are {len(found)}")
    return [text for text, _ in sources.text_blocks(found[0][1])]


def _aligned(source: str, target: str) -> list[Pair]:
    sides = {path: _lines(path) for path in (source, target)}
    for i, (a, b) in enumerate(itertools.zip_longest(*sides.values()), 1):
        if a is None or b is None:
            longer, shorter = (source, target) if b is None else (target, source)
            raise UserError(
                f"{longer}:{i}: this line has no partner: {shorter} ends at line {i - 1}, so the two are not aligned"
            )
    return list(zip(*sides.values()))


def _row(line: str, columns: tuple[int, int], where: str) -> Pair:
    cells = line.split("\t")
    if len(cells) <= max(columns):
        raise UserError(f"{where}: {len(cells)} columns, but data.columns={list(columns)} need {max(columns) + 1}")
    return cells[columns[0]], cells[columns[1]]


def _object(line: str, fields: tuple[str, str], where: str) -> Pair:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}") from None
    if not isinstance(record, dict) or not all(isinstance(record.get(field), str) for field in fields):
        raise UserError(f"{where}: not an object with the texts {fields[0]!r} and {fields[1]!r}: set data.fields")
    return record[fields[0]], record[fields[1]]
