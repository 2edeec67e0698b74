"""Each rule drops the text that breaks it, personal data is hidden, contaminated items are found."""

import json

import pytest

from jaxlm.cli import main
from jaxlm.data import clean
from jaxlm.data.language import language
from jaxlm.data.quality import RULES, Contamination, Filter, scrub
from jaxlm.errors import UserError

GOOD = " ".join(f"The cat{i} and dog{i} of house{i} went{i} to market{i} with me{i}." for i in range(20))
BAD = {
    "words": "The cat and the dog.",
    "word length": "a b c d e " * 20,
    "symbols": GOOD + " ..." * 40,
    "bullets": "\n".join(f"- the cat and dog{i} number {i}" for i in range(20)),
    "ellipses": "\n".join(f"the cat and dog{i} of house{i} …" for i in range(20)),
    "letters": GOOD + " 1234" * 100,
    "common words": " ".join(f"{a}{b}xyz" for a in "abcdefgh" for b in "abcdefgh"),
    "repeated lines": GOOD + "\nthe same line again" * 9,
    "repeated paragraphs": GOOD + "\n\nthe same\nthing" * 9,
    "repeated bigrams": GOOD + " thesame thing" * 40,
    "repeated trigrams": GOOD + " one two three" * 40,
    "lorem ipsum": GOOD + " Lorem ipsum",
    "damaged text": GOOD + "\ufffd" * 9,
}


@pytest.mark.parametrize("name", RULES)
def test_rules(name):
    alone = Filter((name,))
    assert alone.broken(GOOD) is None and alone.broken(BAD[name]) == name
    assert (alone.kept, dict(alone.dropped)) == (1, {name: 1})


def test_languages():
    assert language(GOOD) == "en" and language("El niño come en la casa de los abuelos") == "es"
    assert Filter(languages=("es",)).broken(GOOD) == "language" and Filter(languages=("en",)).broken(GOOD) is None
    with pytest.raises(UserError, match="unknown rule 'x'"):
        Filter(("x",))


@pytest.mark.parametrize(
    "kind, there, not_there",
    [
        ("email", "ana.b+c@mail.example.es", "at @home"),
        ("phone", "+34 612 345 678", "in 1999, 3.14159265"),
        ("card", "4111 1111 1111 1111", "4111 1111 1111 1112"),
        ("ip", "192.168.0.1", "999.1.1.1"),
        ("dni", "12345678Z", "12345678A"),
        ("dni", "X1234567L", "X1234567A"),
        ("iban", "ES91 2100 0418 4502 0005 1332", "ES91 2100 0418 4502 0005 1333"),
        ("ssn", "123-45-6789", "000-45-6789"),
    ],
)
def test_personal_data(kind, there, not_there):
    assert scrub(f"x {there} y", [kind]) == (f"x <{kind.upper()}> y", {kind: 1})
    assert scrub(f"x {not_there} y", [kind]) == (f"x {not_there} y", {})
    with pytest.raises(UserError, match="unknown kind of personal data"):
        scrub("", ["name"])


def test_contaminated_items_are_found():
    items = [f"Question {i}: how many of the {i} apples in the {i} boxes are red in the morning?" for i in range(20)]
    found = Contamination(items)
    found.look(GOOD, "a")
    found.look(f"{GOOD} {items[7].upper()} {GOOD}", "b")
    found.look("Question 3: how many of the 3 apples", "c")
    assert found.contaminated == [7] and found.overlap[7] == 1 and found.where[7] == "b"
    short = Contamination(["two words"])
    short.look("not these two words here")
    assert short.contaminated == [0]
    with pytest.raises(UserError, match="no evaluation items"):
        Contamination([])


def test_the_commands(tmp_path, capsys):
    rows = [GOOD, GOOD + " more", f"{GOOD[:500]} ana@x.es", BAD["words"]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    out = str(tmp_path / "b.jsonl")
    assert main(["data", "dedup", str(tmp_path / "a.jsonl"), "--out", out, "--texts", "64"]) == 0
    assert "3 of 4 documents kept" in capsys.readouterr().out
    assert main(["data", "filter", out, "--out", str(tmp_path / "c.jsonl"), "--languages", "en"]) == 0
    said = capsys.readouterr().out
    assert "2 of 3 documents kept" in said and "hidden email" in said and "1  words" in said
    kept = [json.loads(line)["text"] for line in (tmp_path / "c.jsonl").read_text().splitlines()]
    assert kept[1].endswith("<EMAIL>")
    (tmp_path / "t.jsonl").write_text(json.dumps({"question": GOOD[:200], "answer": "#### 1"}) + "\n")
    assert main(["data", "check", out, "--against", f"gsm8k={tmp_path / 't.jsonl'}"]) == 0
    assert "1 of 1 items are in the training texts" in capsys.readouterr().out
    assert main(["data", "report", out]) == 0
    assert "en 100 %" in capsys.readouterr().out
    assert main(["data", "check", out, "--against", "gsm8k"]) == 2
    assert "--against wants KIND=FILE" in capsys.readouterr().err
    assert str(clean.Counts()) == "0 of 0 documents kept, 0.0 % of 0.0 MB"
