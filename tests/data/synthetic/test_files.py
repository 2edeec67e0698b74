"""Files of rows: what is read, split and left out, and what is refused with its line."""

import gzip

import pytest

from jaxlm.data import TaskFile
from jaxlm.data.synthetic.brackets import LIST_OPS
from jaxlm.errors import UserError

OPS = "9\t( ( [MAX 2 ) 9 ) ]\n3\t[SM 6 7 ]\n4\t4\n1\t[LAST [MIN 4 2 ] 1 ]\n"
GAMES = "game,winner,moves\n1,1,f5d6c4\n2,-1,d3c5f6f5\n3,0,f5f6\n"


def test_list_ops(tmp_path):
    path = tmp_path / "ops.tsv.gz"
    path.write_bytes(gzip.compress(OPS.encode()))
    data = TaskFile(str(path), "list_ops", T=6, holdout=1)
    rows = data.rows(0) + data.rows(1)
    spelled = {" ".join(LIST_OPS[i] for i in [*prompt, *answer]) for prompt, answer in rows}
    assert spelled == {"[MAX 2 9 ] 9", "[SM 6 7 ] 3", "4 4"}  # the last has eight tokens
    row = data.row(1, 0)
    assert row["weights"].sum() == 1 and row["labels"][row["weights"] > 0] == data.rows(1)[0][1]


def test_othello(tmp_path):
    path = tmp_path / "games.csv"
    path.write_text(GAMES)
    data = TaskFile(str(path), "othello", holdout=1)
    lengths = sorted(len(prompt) + len(answer) for prompt, answer in data.rows(0) + data.rows(1))
    assert lengths == [2, 3, 4] and data.vocabulary == 61
    first, second = ([int(data.row(0, i)["segments"].sum()) for i in range(n, n + 2)] for n in (0, 2))
    assert sorted(first) == sorted(second)
    before = data.prepare().fingerprint
    path.write_text(GAMES.replace("f5f6", "f5d6"))
    assert TaskFile(str(path), "othello", holdout=1).prepare().fingerprint == before  # a process reads a file once


@pytest.mark.parametrize(
    "kind, text, line",
    [
        ("list_ops", OPS + "5\t[MAX 2 9 ]\n", r":5: '5\\t\[MAX 2 9 \]' is no ListOps expression"),
        ("list_ops", OPS + "5\t[MUL 2 9 ]\n", ":5: .* is no ListOps"),
        ("othello", GAMES + "4,0,f5f5\n", ":5: move 2, f5, is against the rules"),
        ("othello", GAMES, "3 rows fit into T=60, and holdout=512 leaves none"),
    ],
)
def test_what_is_refused(tmp_path, kind, text, line):
    path = tmp_path / "rows.tsv"
    path.write_text(text)
    with pytest.raises(UserError, match=line):
        TaskFile(str(path), kind).row(0, 0)


def test_unknown_kind():
    with pytest.raises(UserError, match="kind='chess' must be one of list_ops, othello"):
        TaskFile("x", "chess")
