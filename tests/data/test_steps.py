"""Judged steps: where the judgements stand."""

import json

import pytest

from jaxlm.data import Steps
from jaxlm.errors import UserError


def write(folder, rows):
    path = folder / "steps.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_judgements_stand_at_the_ends_of_steps(tmp_path):
    rows = [{"prompt": f"{i}?", "completions": ["ab", "c"], "labels": [True, False]} for i in range(40)]
    dataset = Steps(write(tmp_path, rows), T=16).prepare()
    assert len(dataset.train) + len(dataset.heldout) == 40 and "0.5000 of the steps" in dataset.table({"loss": 1.0})
    row = next(dataset.heldout_rows().batches(2, [0, 1]))
    ends = [i for i in range(16) if row["weights"][0, i]]
    assert [chr(row["tokens"][0, i]) for i in ends] == ["\n", "\n"] and row["labels"][0, ends].tolist() == [1, 0]


BAD = [{"prompt": "a", "completions": ["b"], "labels": [1]}, {"prompt": "a", "completions": ["b"], "labels": []}, [1]]


@pytest.mark.parametrize("row", BAD, ids=str)
def test_bad_rows_are_named(tmp_path, row):
    with pytest.raises(UserError, match="record 1: not "):
        Steps(write(tmp_path, [row])).prepare()
