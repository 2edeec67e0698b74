import gzip
import io
import json
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxlm.data import documents, sources
from jaxlm.errors import UserError


def texts(path: Path | str, **options) -> list[str]:
    return [text for _, text in documents(str(path), **options)]


def lines(*records: object) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def test_a_text_file_is_one_document_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.TXT").write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\xe2\x82\xac")
    assert list(documents(str(tmp_path / "a.TXT"))) == [(str(tmp_path / "a.TXT"), "one\r\ntwo\n\u20ac")]


def test_a_jsonl_file_has_a_document_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"text": "one", "n": 1}, {"text": ""}) + b"\n" + lines({"text": "a\nb\0"}))
    path = str(tmp_path / "a.jsonl")
    assert list(documents(path)) == [(f"{path}:1", "one"), (f"{path}:4", "a\nb\0")]
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines({"text": None}, {"text": "one"}))
    assert list(documents(path)) == [(f"{path}:2", "one")]
    (tmp_path / "a.jsonl").write_bytes(lines({"body": "\u20ac"})[:-1])
    assert texts(path, field="body") == ["\u20ac"]


def test_compressed_files_read_as_the_plain_ones(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("text \u20ac".encode(), mtime=0))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines({"text": "x"}, {"text": "y"}), mtime=0))
    assert texts(tmp_path) == ["text \u20ac", "x", "y"]


def test_a_parquet_file_has_a_document_a_row(tmp_path: Path) -> None:
    rows = [f"row {i}" for i in range(300)]
    pq.write_table(pa.table({"text": [*rows, None, ""], "n": [1] * 302}), tmp_path / "a.parquet", row_group_size=100)
    assert texts(tmp_path / "a.parquet") == rows
    pq.write_table(pa.table({"text": pa.array([None, "x"]).dictionary_encode()}), tmp_path / "b.parquet")
    assert texts(tmp_path / "b.parquet") == ["x"]
    pq.write_table(pa.table({"body": pa.array(["x"], pa.large_string())}), tmp_path / "b.parquet")
    assert list(documents(str(tmp_path / "b.parquet"), field="body")) == [(f"{tmp_path}/b.parquet:1", "x")]


def test_folders_and_globs_are_read_in_order_of_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/two.txt", "a/one.txt", "c.txt", ".hidden/no.txt", "a/.no.txt", "a/README.md", "a/empty.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("" if "empty" in name else name)
    assert texts(tmp_path) == ["a/one.txt", "b/two.txt", "c.txt"]
    assert texts(tmp_path / "**") == texts(tmp_path / "**/*.txt") == ["a/one.txt", "b/two.txt", "c.txt"]
    assert texts(tmp_path / "?/*.txt") == ["a/one.txt", "b/two.txt"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert texts("~/c.txt") == ["c.txt"]
    (tmp_path / "[x].txt").write_text("brackets")
    assert texts(tmp_path / "[x].txt") == ["brackets"]


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_limit_stops_reading_early(tmp_path: Path, name: str) -> None:
    text = "\u20ac" * 100_000
    (tmp_path / name).write_bytes(gzip.compress(text.encode(), mtime=0) if name.endswith("gz") else text.encode())
    assert texts(tmp_path / name, limit=10) == ["\u20ac" * 3]
    (tmp_path / "b.jsonl").write_bytes(lines({"text": "abc"}, {"text": "def"}) + b"never reached")
    assert texts(tmp_path / "b.jsonl", limit=5) == ["abc", "de"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"", r"a\.txt: no text here: the file is empty"),
        ("a.jsonl", b"\n\n", r"a\.jsonl: no text here: every document is empty"),
        ("a.txt", b"\x7fELF\0\0", r"a\.txt: byte 4 is NUL: a binary file"),
        ("a.txt", "text".encode("utf-16"), r"byte 3 is NUL: .*not UTF-8"),
        ("a.txt", b"\xef\xbb\xbfab\xe9c", r"a\.txt: byte 5 is not UTF-8 \(invalid continuation byte\)"),
        ("a.txt", b"ab\xe2\x82", r"a\.txt: byte 2 is not UTF-8 \(unexpected end of data\)"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xe9"}\n', r"a\.jsonl:2: byte 24 is not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl:2: not JSON: Expecting value at character \d+"),
        ("a.jsonl", b'{"text": "x"}\n[1]\n', r"a\.jsonl:2: a JSON array, not an object with the field 'text'"),
        ("a.jsonl", b'"x"', r"a\.jsonl:1: a JSON string, not an object"),
        ("a.jsonl", b'{"id": 1, "body": ""}', r"a\.jsonl:1: no field 'text' \(it has 'id', 'body'\)"),
        ("a.jsonl", b"{}", r"a\.jsonl:1: no field 'text' \(it has none\)"),
        ("a.jsonl", b'{"text": null}', r"a\.jsonl: no text here: every document is empty"),
        ("a.jsonl", b'{"text": 3}', r"the field 'text' is a JSON number, not a string"),
        ("a.jsonl", b'{"text": "a\\ud800"}', r"a\.jsonl:1: field 'text': .*lone surrogate U\+D800 at character 1"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: JSON that cannot be read"),
        ("a.jsonl", b"1" * 5000, r"a\.jsonl:1: JSON that cannot be read"),
        ("a.txt.gz", b"plain text", r"a\.txt\.gz: not a whole gzip file"),
        ("a.txt.gz", gzip.compress(b"text" * 100, mtime=0)[:-9], r"a\.txt\.gz: not a whole gzip file"),
        (
            "a.jsonl.gz",
            gzip.compress(b"text" * 100, mtime=0)[:20] + b"\xff" * 20,
            r"a\.jsonl\.gz: not a whole gzip file",
        ),
        ("a.parquet", b"PAR1 not really", r"a\.parquet: cannot be read as parquet: "),
        ("a.parquet", b"", r"a\.parquet: cannot be read as parquet: "),
        ("a.md", b"text", r"a\.md: unknown kind of file: use one of \.txt, "),
        ("a.json", b"{}", r"a\.json: unknown kind of file"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        texts(tmp_path / name)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_bad_paths_are_refused_at_once(tmp_path: Path) -> None:
    for path, message in {
        "none.txt": r"none\.txt: no such file or folder",
        "*.txt": r"\*\.txt: matches no file$",
        ".": r"no file of a known kind in this folder \(\.txt, ",
    }.items():
        with pytest.raises(UserError, match=message):
            documents(str(tmp_path / path))
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(UserError, match="matches no file of a known kind"):
        documents(str(tmp_path / "*"))
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"gone\.txt: cannot read it: No such file"):
        texts(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this platform")
def test_a_pipe_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        documents(str(tmp_path / "a.txt"))


def test_columns_that_are_not_there_or_not_text_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: no column 'text' \(it has 'id', 'body'\)"):
        texts(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: the column 'id' holds int64, not strings"):
        texts(tmp_path / "a.parquet", field="id")
    pq.write_table(pa.table({"text": [None, None]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="no text here: every document is empty"):
        texts(tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["some text"] * 100}), tmp_path / "b.parquet")
    damaged = bytearray((tmp_path / "b.parquet").read_bytes())
    damaged[4:40] = b"\xff" * 36
    (tmp_path / "b.parquet").write_bytes(damaged)
    with pytest.raises(UserError, match=r"b\.parquet: cannot be read as parquet"):
        texts(tmp_path / "b.parquet")


def test_a_line_longer_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LINE_LIMIT", 2**20)
    (tmp_path / "a.jsonl").write_bytes(lines({"text": "x" * (2**20 - 13)}, {"text": "x" * 2**25}))
    reader = documents(str(tmp_path / "a.jsonl"))
    assert len(next(reader)[1]) == 2**20 - 13
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"a\.jsonl:2: the line is longer than 1 MiB"):
            next(reader)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_memory_is_that_of_one_document(tmp_path: Path, name: str) -> None:
    data = lines({"text": "x" * 10_000}) * 1000
    (tmp_path / name).write_bytes(gzip.compress(data, 1, mtime=0) if name.endswith("gz") else data)
    tracemalloc.start()
    try:
        assert sum(1 for _ in documents(str(tmp_path / name))) == 1000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_the_digest_depends_on_contents_alone(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}-a.txt").write_text("hello")
        (tmp_path / folder / f"{folder}-b.txt").write_text("world")
    digest = sources.digest(str(tmp_path / "one"))
    assert sources.digest(str(tmp_path / "two")) == sources.digest(str(tmp_path / "two" / "*.txt")) == digest
    (tmp_path / "two" / "two-b.txt").write_text("wordl")
    assert sources.digest(str(tmp_path / "two")) != digest
    (tmp_path / "one" / "one-a.txt").write_text("hell")
    (tmp_path / "one" / "one-b.txt").write_text("oworld")
    assert sources.digest(str(tmp_path / "one")) != digest


def test_progress_counts_bytes_up_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK", 100)
    (tmp_path / "a.jsonl").write_bytes(lines({"text": "x" * 50}) * 20)
    (tmp_path / "b.txt").write_bytes(b"y" * 500)
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    seen: list[tuple[int, int | None, str]] = []
    list(documents(str(tmp_path), progress=lambda *report: seen.append(report)))
    assert len(seen) > 5 and seen == sorted(seen)
    assert seen[-1] == (total, total, "bytes read")
    seen.clear()
    sources.digest(str(tmp_path), lambda *report: seen.append(report))
    assert seen[-1] == (total, total, "bytes hashed")


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "notes.md"])
def test_passages_join_to_the_text_and_end_with_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(sources, "BLOCK", 64)
    text = "una línea 日本\n" * 30 + "\U0001f600" * 100 + "\nfin"
    data = b"\xef\xbb\xbf" + text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data, mtime=0) if name.endswith("gz") else data)
    seen: list[tuple[int, int | None, str]] = []
    passages = list(sources.passages(str(tmp_path / name), progress=lambda *report: seen.append(report)))
    assert "".join(passages) == text and max(map(len, passages)) < 200
    assert all(passage.endswith("\n") for passage in passages[:5])
    size = (tmp_path / name).stat().st_size
    assert seen == sorted(seen) and seen[-1] == (size, size, "bytes read")


def test_passages_of_records_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines({"body": "uno"}, {"body": "dos"}))
    (tmp_path / "b.txt").write_text("tres")
    with pytest.raises(UserError, match="no field 'text'"):
        list(sources.passages(str(tmp_path)))
    (tmp_path / "b.txt").unlink()
    assert list(sources.passages(str(tmp_path), "body")) == ["uno", "dos"]


def test_passages_of_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("qué".encode())))
    assert list(sources.passages("-")) == ["qué"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff")))
    with pytest.raises(UserError, match="standard input: byte 2 is not UTF-8"):
        list(sources.passages("-"))


def test_passages_are_read_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK", 2**14)
    (tmp_path / "a.txt").write_bytes(b"x" * 10_000_000)
    tracemalloc.start()
    try:
        assert sum(map(len, sources.passages(str(tmp_path / "a.txt")))) == 10_000_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
