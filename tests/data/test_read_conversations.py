"""Every form of conversation file, and what is wrong with others."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from jaxlm.data.read_conversations import read
from jaxlm.errors import UserError

ASKED = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
FORMS = {
    "openai": {"messages": ASKED},
    "sharegpt": {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
    "alpaca": {"instruction": "hi", "input": "", "output": "hello"},
    "texts": {"prompt": "hi", "completion": "hello"},
    "halves": {"prompt": ASKED[:1], "completion": ASKED[1:]},
}


def write(path, records):
    if path.name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
        return str(path)
    whole = json.dumps(records) if ".json" in path.suffixes else "\n".join(map(json.dumps, records)) + "\n"
    data = whole.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.json.gz", "a.jsonl.gz", "a.parquet"])
@pytest.mark.parametrize("form", FORMS)
def test_forms(tmp_path, form, name):
    path = write(tmp_path / name, [FORMS[form]] * 2)
    assert [one.messages for one in read(path)] == [ASKED, ASKED]


def test_system_input_and_tools(tmp_path):
    records = [
        {"instruction": "add", "input": "1 and 2", "output": "3", "system": "be brief"},
        {
            "conversations": [
                {"from": "human", "value": "weather?"},
                {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                {"from": "observation", "value": "rain"},
                {"from": "gpt", "value": "Rain."},
            ],
            "system": "",
            "tools": '[{"name": "f"}]',
        },
    ]
    first, second = read(write(tmp_path / "a.jsonl", records))
    assert [m["content"] for m in first.messages] == ["be brief", "add\n1 and 2", "3"]
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    assert second.messages[1] == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert [m["role"] for m in second.messages] == ["user", "assistant", "tool", "assistant"]
    assert second.tools == [{"name": "f"}]


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({"text": "x"}, "record 2: no conversation: none of messages, .* is there, but text"),
        ({"messages": ASKED[:1]}, "record 2: nothing in it is by the assistant"),
        ({"messages": ASKED[1:]}, "message 1 is 'assistant' after 'nothing'"),
        ({"messages": ASKED[:1] + ASKED}, "message 2 is 'user' after 'user'"),
        ({"messages": [*ASKED, {"role": "system", "content": ""}]}, "message 3 is of the system"),
        ({"messages": [{"role": "judge", "content": ""}]}, "unknown role 'judge'"),
        ({"messages": []}, "a list of messages is wanted"),
        ({"instruction": "a", "output": 3}, "output must be a text, not 3"),
        ({"conversations": [{"from": "human", "value": None}]}, "the value of a message must be a text"),
        ({"messages": ASKED, "tools": "{"}, "tools: not valid JSON"),
        ("text", "but str"),
    ],
)
def test_bad_records(tmp_path, record, line):
    path = write(tmp_path / "a.jsonl", [FORMS["openai"], record])
    with pytest.raises(UserError, match=line) as error:
        read(path)
    assert str(error.value).startswith(path)


def test_bad_files(tmp_path):
    for name, data, line in (
        ("a.jsonl", b'{"messages"', "record 1: not valid JSON"),
        ("a.json", b'{"a": 1}', "a list of conversations is wanted, not a dict"),
        ("a.jsonl", b"\n", "no conversations here"),
        ("a.jsonl", b"\xff\xfe", "is no UTF-8 text"),
        ("a.txt", b"", "are read from .jsonl, .json and .parquet"),
        ("a.parquet", b"PAR1", "is no parquet file"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=line):
            read(str(tmp_path / name))
    with pytest.raises(UserError, match="cannot read"):
        read(str(tmp_path / "absent.jsonl"))
