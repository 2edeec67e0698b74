"""Preferences from files, whoever's form they have: a prompt, a chosen and a rejected answer.

| keys of a record | the prompt is |
|---|---|
| prompt, chosen, rejected (margin) | a text or a list of messages |
| conversations or messages, chosen, rejected | the messages |
| instruction (input), chosen, rejected | both, a line apart |
| chosen, rejected | what both begin with: all messages but the last, or all until the last "\\n\\nAssistant:" |
| messages (or prompt, completion), label | all messages but the last; label tells whether the answer is wanted |

An answer is a text, a message, or a list of messages whose last one counts.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxlm.data.read_conversations import conversation_of, message_of, messages_of, read_each, text_at
from jaxlm.errors import UserError

Prompt = str | list[dict[str, Any]]
TURN = "\n\nAssistant:"  # of Anthropic's hh-rlhf


class Preference(NamedTuple):
    """`rejected` is None where only one answer is judged, by `wanted`."""

    prompt: Prompt
    chosen: str
    rejected: str | None
    margin: float = 0.0
    wanted: bool = True


def read(path: str) -> list[Preference]:
    """All preferences of a .jsonl, .json (both also .gz) or .parquet file, in order.

    Raises:
        UserError: naming the file and the record, counted from 1: not JSON, no known form, answers that are equal or
            empty, chosen without rejected, answers to different prompts.
    """
    return read_each(path, "preferences", _preference)


def _preference(record: Any) -> Preference:
    if not isinstance(record, Mapping):
        raise UserError(f"an object is wanted, not a {type(record).__name__}")
    if isinstance(record.get("label"), bool) and "chosen" not in record:
        *before, last = conversation_of(record).messages
        plain = isinstance(record.get("prompt"), str) and isinstance(record.get("completion"), str)
        return Preference(record["prompt"] if plain else before, _said(last), None, wanted=record["label"])
    for side, other in (("chosen", "rejected"), ("rejected", "chosen")):
        if record.get(side) is None:
            there = f"{other} without {side}" if record.get(other) is not None else "neither chosen nor rejected"
            raise UserError(f"no preference: {there} is there")
    (own, chosen), (its, rejected) = (_answer(record[side]) for side in ("chosen", "rejected"))
    if "prompt" in record:
        prompt = record["prompt"] if isinstance(record["prompt"], str) else messages_of(record["prompt"])
    elif "conversations" in record or "messages" in record:
        prompt = messages_of(record.get("conversations", record.get("messages")))
    elif "instruction" in record:
        asked = [text_at(record, "instruction"), text_at(record, "input", "")]
        prompt = [{"role": "user", "content": "\n".join(filter(None, asked))}]
    elif own or its:
        if json.dumps(own) != json.dumps(its):
            raise UserError("chosen and rejected answer different messages, and no prompt is there")
        prompt = own
    else:
        prompt, chosen, rejected = _common(chosen, rejected)
    if isinstance(prompt, list) and isinstance(system := record.get("system"), str) and system:
        prompt = [{"role": "system", "content": system}, *prompt]
    if chosen == rejected:
        raise UserError(f"chosen and rejected are equal ({chosen[:40]!r}): leave the record out")
    if not chosen.strip() or not rejected.strip():
        raise UserError(f"the {'rejected' if chosen.strip() else 'chosen'} answer is empty")
    margin = record.get("margin", 0.0)
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        raise UserError(f"margin must be a number, not {repr(margin)[:40]}")
    return Preference(prompt, chosen, rejected, float(margin))


def _answer(given: Any) -> tuple[list[dict[str, Any]], str]:
    """What stands before an answer, and the answer."""
    if isinstance(given, str):
        return [], given
    *before, last = messages_of(given if isinstance(given, list) else [given])
    return before, _said(message_of(last))


def _said(message: Mapping[str, Any]) -> str:
    if message["role"] != "assistant" or not isinstance(message.get("content"), str):
        raise UserError(f"an answer is a text by the assistant, not {repr(message)[:60]}")
    return message["content"]


def _common(chosen: str, rejected: str) -> tuple[str, str, str]:
    at = chosen.rfind(TURN) + len(TURN)
    if at < len(TURN) or chosen[:at] != rejected[: rejected.rfind(TURN) + len(TURN)]:
        raise UserError(f"no prompt is there, and chosen and rejected do not share one that ends with {TURN!r}")
    return chosen[:at], chosen[at:], rejected[at:]
