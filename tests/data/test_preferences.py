"""Preferences: every form of file, what of a text is an answer, rows."""

import json

import numpy as np
import pytest

from jaxlm.data import Preferences, Source
from jaxlm.data.read_preferences import read
from jaxlm.errors import UserError

USER, ANSWER = {"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}
WRONG = {"role": "assistant", "content": "3"}
FORMS = [
    {"prompt": "1+1?", "chosen": "2", "rejected": "3"},
    {"prompt": [USER], "chosen": [ANSWER], "rejected": [WRONG]},
    {"chosen": [USER, ANSWER], "rejected": [USER, WRONG], "margin": 2},
    {"conversations": [{"from": "human", "value": "1+1?"}], "chosen": {"from": "gpt", "value": "2"}, "rejected": "3"},
    {"instruction": "1+1?", "input": "", "output": "2", "chosen": "2", "rejected": "3"},
    {"chosen": "\n\nHuman: 1+1?\n\nAssistant: 2", "rejected": "\n\nHuman: 1+1?\n\nAssistant: 3"},
    {"messages": [USER, ANSWER], "label": False},
    {"prompt": "1+1?", "completion": "2", "label": True},
]


def write(folder, rows):
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_every_form(tmp_path):
    found = read(write(tmp_path, FORMS))
    assert [one.chosen.strip() for one in found] == ["2"] * 8
    assert [one.rejected and one.rejected.strip() for one in found] == ["3"] * 6 + [None] * 2
    assert found[1].prompt == found[2].prompt == [USER] and found[2].margin == 2.0
    assert found[5].prompt == "\n\nHuman: 1+1?\n\nAssistant:" and found[0].prompt == found[7].prompt == "1+1?"
    assert [one.wanted for one in found[6:]] == [False, True]


BAD = [
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, r"record 2: chosen and rejected are equal \('b'\)"),
    ({"prompt": "a", "chosen": "b"}, "record 2: no preference: chosen without rejected is there"),
    ({"prompt": "a", "rejected": "b"}, "rejected without chosen"),
    ({"prompt": "a"}, "neither chosen nor rejected"),
    ({"prompt": "a", "chosen": " ", "rejected": "b"}, "the chosen answer is empty"),
    ({"chosen": "a", "rejected": "b"}, "no prompt is there"),
    ({"chosen": [USER, ANSWER], "rejected": [ANSWER]}, "answer different messages"),
    ({"prompt": "a", "chosen": [USER], "rejected": "b"}, "an answer is a text by the assistant"),
    ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "much"}, "margin must be a number"),
    ([1], "an object is wanted, not a list"),
]


@pytest.mark.parametrize("record, says", BAD, ids=lambda x: str(x)[:20])
def test_bad_records_are_named(tmp_path, record, says):
    with pytest.raises(UserError, match=says):
        read(write(tmp_path, [FORMS[0], record]))


def test_rows_have_both_answers_and_only_they_count(tmp_path):
    path = write(tmp_path, [{"prompt": f"{i}+1=", "chosen": f"{i + 1}", "rejected": "x"} for i in range(20)])
    dataset = Preferences(sources=(Source(path),), T=8).prepare()
    assert len(dataset.train) + len(dataset.heldout) == 20 and dataset.heldout
    tokenizer = dataset.tokenizer
    for row in (dataset.rows()[0], dataset.rows(heldout=True)[0]):
        for i in range(2):
            n = int(row["segments"][i].sum())
            text = tokenizer.decode([*row["tokens"][i, :n], row["labels"][i, n - 1]], skip_special=True)
            said = tokenizer.decode(row["labels"][i][row["answer_weights"][i] > 0], skip_special=True)
            assert text == (f"{int(text.split('+')[0])}+1=" + said)
            assert said == (str(int(text.split("+")[0]) + 1) if i == 0 else "x")
            assert row["labels"][i, n - 1] in tokenizer.stops
    assert 0 <= dataset.longer_is_better <= 1


def test_apart_every_answer_is_alone_beside_another_to_its_prompt(tmp_path):
    path = write(tmp_path, [{"prompt": f"{i}+1=", "chosen": f"{i + 1}", "rejected": "x"} for i in range(20)])
    dataset = Preferences(sources=(Source(path),), T=8, apart=True).prepare()
    assert len(dataset.train) + len(dataset.heldout) == 40
    wanted = [float(dataset.rows()[i]["wanted"][0]) for i in range(len(dataset.train))]
    assert sum(wanted) == len(wanted) / 2
    row = dataset.rows()[0]
    own, other = (row["tokens"][i][row["answer_weights"][i] == 0] for i in range(2))
    np.testing.assert_array_equal(own[:3], other[:3])  # the same prompt


def test_templates_and_what_is_asked_in_vain(tmp_path):
    path = write(tmp_path, FORMS[1:2] * 3)
    with pytest.raises(UserError, match="no chat template: name one"):
        Preferences(sources=(Source(path),)).prepare()
    row = Preferences(sources=(Source(path),), template="chatml", T=128).prepare().rows()[0]
    said = row["labels"][0][row["answer_weights"][0] > 0]
    assert bytes(x for x in said.tolist() if x < 256).startswith(b"2<|im_end|>")
    single = write(tmp_path, FORMS[7:] * 3)
    with pytest.raises(UserError, match="a judged answer is no pair"):
        Preferences(sources=(Source(single),)).prepare()
