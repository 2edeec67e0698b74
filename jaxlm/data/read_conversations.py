"""Conversations from files, whoever's form they have: a list of messages, {"role": ..., "content": ...}, and tools.

| keys of a record | form |
|---|---|
| messages (tools) | OpenAI's |
| conversations (system, tools) | ShareGPT's: {"from": "human" or "gpt" or ..., "value": ...} |
| instruction, output (input, system) | Alpaca's (Taori et al. 2023) |
| prompt, completion | two texts, or two lists of messages |
"""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jaxlm.errors import UserError
from jaxlm.paths import expand

T = TypeVar("T")
ROLES = {
    **{role: role for role in ("system", "user", "assistant", "tool")},
    **{"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "developer": "system"},
    **{"function_call": "assistant", "observation": "tool", "function": "tool"},
}
AFTER = {"user": ("", "system", "assistant"), "assistant": ("user", "tool", "assistant"), "tool": ("assistant", "tool")}
KEYS = ("messages", "conversations", "instruction", "prompt")


class Conversation(NamedTuple):
    messages: list[dict[str, Any]]
    tools: list[Any] | None = None


def read(path: str) -> list[Conversation]:
    """All conversations of a .jsonl, .json (both also .gz) or .parquet file, in order.

    Raises:
        UserError: naming the file and the record, counted from 1: not JSON, no known form, a role that is unknown or
            out of order, nothing by the assistant.
    """
    return read_each(path, "conversations", conversation_of)


def read_each(path: str, what: str, make: Callable[[Any], T]) -> list[T]:
    """What `make` makes of every record of a file. Raises UserError, naming the file and the record, where it does, and
    for a file without records."""
    found = []
    for number, record in records(expand(path)):
        try:
            found.append(make(record))
        except UserError as error:
            raise UserError(f"{path}, record {number}: {error}") from None
    if not found:
        raise UserError(f"{path}: no {what} here")
    return found


def records(file: Path) -> Iterator[tuple[int, Any]]:
    """(number, record) of each."""
    name = file.name.removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            import pyarrow.parquet  # only where it is needed

            try:
                for i, record in enumerate(pyarrow.parquet.read_table(file).to_pylist(), 1):
                    yield i, _without_nulls(record)
            except pyarrow.ArrowException as error:
                raise UserError(f"{file} is no parquet file: {str(error)[:200]}") from None
            return
        data = file.read_bytes()
        text = (gzip.decompress(data) if file.name.endswith(".gz") else data).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise UserError(f"{file} is no UTF-8 text: {error}") from None
    if name.endswith(".json"):
        listed = _parsed(text, str(file))
        if not isinstance(listed, list):
            raise UserError(f"{file}: a list of conversations is wanted, not a {type(listed).__name__}")
        yield from enumerate(listed, 1)
    elif name.endswith(".jsonl"):
        for i, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield i, _parsed(line, f"{file}, record {i}")
    else:
        raise UserError(f"{file}: conversations are read from .jsonl, .json and .parquet files, the first two also .gz")


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON: {error}") from None


def _without_nulls(value: Any) -> Any:
    """A parquet record has every key that any has."""
    if isinstance(value, dict):
        return {key: _without_nulls(x) for key, x in value.items() if x is not None}
    return [_without_nulls(x) for x in value] if isinstance(value, list) else value


def conversation_of(record: Any) -> Conversation:
    if not isinstance(record, Mapping) or not any(key in record for key in KEYS):
        there = ", ".join(map(str, record))[:80] if isinstance(record, Mapping) else type(record).__name__
        raise UserError(f"no conversation: none of {', '.join(KEYS)} is there, but {there or 'nothing'}")
    if "messages" in record or "conversations" in record:
        messages = messages_of(record.get("messages", record.get("conversations")))
    elif "instruction" in record:
        asked = [text_at(record, "instruction"), text_at(record, "input", "")]
        messages = [{"role": "user", "content": "\n".join(filter(None, asked))}]
        messages.append({"role": "assistant", "content": text_at(record, "output")})
    else:
        sides = ((record.get("prompt"), "user"), (record.get("completion"), "assistant"))
        messages = [
            message
            for said, role in sides
            for message in ([{"role": role, "content": said}] if isinstance(said, str) else messages_of(said))
        ]
    if (system := text_at(record, "system", "")) and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    _check_order([message["role"] for message in messages])
    tools = record.get("tools") or None
    if isinstance(tools, str):
        tools = _parsed(tools, "tools")
    return Conversation(messages, tools)


def text_at(record: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = record.get(key, default)
    if not isinstance(value, str):
        raise UserError(f"{key} must be a text, not {repr(value)[:60]}")
    return value


def messages_of(given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise UserError(f"a list of messages is wanted, not {repr(given)[:60]}")
    return [message_of(one) for one in given]


def message_of(one: Any) -> dict[str, Any]:
    role = (one.get("role") or one.get("from")) if isinstance(one, Mapping) else None
    if role not in ROLES:
        raise UserError(f"unknown role {repr(role)[:40]}: known are {', '.join(ROLES)}")
    if "role" in one:
        return {**one, "role": ROLES[role], "content": one.get("content", one.get("value", ""))}
    said = one.get("value", one.get("content"))
    if role == "function_call":
        call = _parsed(said, "a function_call") if isinstance(said, str) else said
        calls = call if isinstance(call, list) else [call]
        return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": c} for c in calls]}
    if not isinstance(said, str):
        raise UserError(f"the value of a message must be a text, not {repr(said)[:60]}")
    return {"role": ROLES[role], "content": said}


def _check_order(roles: list[str]) -> None:
    before = ""
    for i, role in enumerate(roles):
        if role == "system" and i:
            raise UserError(f"roles are out of order: message {i + 1} is of the system")
        if role != "system" and before not in AFTER[role]:
            raise UserError(f"roles are out of order: message {i + 1} is {role!r} after {before or 'nothing'!r}")
        before = role
    if "assistant" not in roles:
        raise UserError("nothing in it is by the assistant")
