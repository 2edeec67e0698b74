import gzip
import json

import pytest

from jaxlm.data import read_pairs
from jaxlm.errors import UserError

PAIRS = [("ein Haus", "a house"), ("zwei Häuser", "two houses"), ("drei", "three")]


def read(source, target="", columns=(0, 1), fields=("source", "target")):
    return read_pairs.read(str(source), str(target) if target else "", columns, fields)


@pytest.fixture
def sides(tmp_path):
    """Two files of lines, one packed, the other with the line ends of another system and none at its end."""
    (tmp_path / "a.de.gz").write_bytes(gzip.compress("".join(a + "\n" for a, _ in PAIRS).encode()))
    (tmp_path / "a.en").write_bytes("\r\n".join(b for _, b in PAIRS).encode())
    return tmp_path / "a.de.gz", tmp_path / "a.en"


def test_two_files(sides):
    assert read(*sides) == PAIRS


def test_one_file(tmp_path):
    (tmp_path / "a.tsv").write_text("".join(f"{b}\tx\t{a}\n" for a, b in PAIRS))
    assert read(tmp_path / "a.tsv", columns=(2, 0)) == PAIRS
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"de": a, "en": b}) + "\n" for a, b in PAIRS))
    assert read(tmp_path / "a.jsonl", fields=("de", "en")) == PAIRS


def test_a_pair_with_an_empty_side_is_left_out(tmp_path):
    (tmp_path / "a").write_text("one\n\nthree\x85more\n")
    (tmp_path / "b").write_text("eins\nzwei\ndrei\n")
    assert read(tmp_path / "a", tmp_path / "b") == [("one", "eins"), ("three\x85more", "drei")]


def test_the_line_without_a_partner_is_named(sides):
    source, target = sides
    with open(target, "a") as file:
        file.write("\nfour\nfive")
    with pytest.raises(UserError, match=r"a\.en:4: this line has no partner: .*a\.de\.gz ends at line 3"):
        read(source, target)
    target.write_text("a house\n")
    with pytest.raises(UserError, match=r"a\.de\.gz:2: this line has no partner: .*a\.en ends at line 1"):
        read(source, target)


def test_mistakes(tmp_path):
    (tmp_path / "a.tsv").write_text("one\teins\ntwo\n")
    with pytest.raises(UserError, match=r"a\.tsv:2: 1 columns, but data.columns=\[0, 1\] need 2"):
        read(tmp_path / "a.tsv")
    (tmp_path / "a.jsonl").write_text('{"source": "x", "target": "y"}\n{"source": "x"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:2: not an object with the texts 'source' and 'target'"):
        read(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text("{\n")
    with pytest.raises(UserError, match=r"a\.jsonl:1: not JSON"):
        read(tmp_path / "a.jsonl")
    (tmp_path / "a.txt").write_text("one\n")
    with pytest.raises(UserError, match="give the file of its targets too"):
        read(tmp_path / "a.txt")
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "b.txt", tmp_path / "a.txt")
    (tmp_path / "b.tsv").write_text("\n\n")
    with pytest.raises(UserError, match="no pairs here"):
        read(tmp_path / "b.tsv")
