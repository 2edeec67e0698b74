"""A chat model's text in its parts, while it arrives: reasoning, content, and calls of tools with their arguments.

Calls are read in two spellings: <tool_call>{"name": ..., "arguments": ...}</tool_call> (Hermes, Qwen), and a whole
answer that is {"name": ..., "parameters": ...} (Llama 3).
"""

import json
import re
from typing import NamedTuple

THINK, THOUGHT, CALL, CALLED = "<think>", "</think>", "<tool_call>", "</tool_call>"
HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"((?:[^"\\]|\\.)*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*')


class Delta(NamedTuple):
    """More of a part: `kind` is "content", "reasoning", "name" (a call begins) or "arguments" (of call `call`)."""

    kind: str
    text: str
    call: int = -1


class Parts:
    """Pushes of text come out as deltas. `thinking` and `call` tell what the prompt has already begun: `call` is the
    text of a call's head, such as '{"name": "f", "arguments": '. Without `tools` nothing is a call."""

    def __init__(self, tools: bool = False, thinking: bool = False, call: str | None = None):
        self.tools, self.calls = tools, 0
        self._state = "call" if call is not None else "reasoning" if thinking else "content"
        self._held, self._fresh, self._bare = call or "", True, call is not None
        self._value: Value | None = None
        self._thought = False  # whether reasoning has just ended

    @property
    def called(self) -> bool:
        """Whether the call that the prompt began is whole, or was none."""
        return (self._value is not None and self._value.done) or self._state != "call"

    def push(self, text: str, last: bool = False) -> list[Delta]:
        self._held += text
        found: list[Delta] = []
        while self._held or last:
            before = (self._state, len(self._held))
            found += self._call(last) if self._state == "call" else self._plain(last)
            if before == (self._state, len(self._held)):
                break
        return found

    def _plain(self, last: bool) -> list[Delta]:
        """Up to the next mark; the beginning of one is held back."""
        kind = self._state
        if self._fresh:
            self._held = self._held.lstrip("\n") if kind == "reasoning" or self._thought else self._held
            start = self._held.lstrip()
            if self.tools and kind == "content" and start.startswith("{"):
                if HEAD.match(self._held):
                    self._state, self._bare = "call", True
                    return []
                if len(start) < 200 and _may_be_head(start) and not last:
                    return []
        marks = [THOUGHT] if kind == "reasoning" else [THINK] * self._fresh + [CALL] * self.tools
        at, mark = min(((i, m) for m in marks if (i := self._held.find(m)) >= 0), default=(None, ""))
        if at is None:
            keep = max((_overlap(self._held, m) for m in marks), default=0)
            before = self._held[: len(self._held) - keep]
            keep += len(before) - len(before.rstrip("\n")) if kind == "reasoning" or self.tools else 0
            keep = 0 if last else keep
            text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        else:
            text, self._held = self._held[:at], self._held[at + len(mark) :]
            self._state = {THINK: "reasoning", THOUGHT: "content", CALL: "call"}[mark]
            self._bare = False
            self._thought = mark == THOUGHT
            text = text.rstrip("\n") if mark in (THOUGHT, CALL) else text
        self._fresh = (self._fresh and not text.strip()) or mark in (THINK, THOUGHT)
        return [Delta(kind, text)] if text and (text.strip() or not self._fresh) else []

    def _call(self, last: bool) -> list[Delta]:
        found = []
        if self._value is None:
            match = HEAD.match(self._held)
            if match is None:
                end = self._held.find(CALLED)
                if end < 0 and not last:
                    return []
                return self._other(end if end >= 0 else len(self._held))
            self._value, self._held = Value(), self._held[match.end() :]
            self.calls += 1
            found.append(Delta("name", json.loads(f'"{match[1]}"'), self.calls - 1))
        if not self._value.done:
            self._held = self._held if self._value.begun else self._held.lstrip()
            taken = self._value.take(self._held)
            if taken:
                found.append(Delta("arguments", self._held[:taken], self.calls - 1))
            self._held = self._held[taken:]
        if self._value.done or last:
            end = self._held.find("}" if self._bare else CALLED)
            if end >= 0 or last:
                self._held = self._held[end + (1 if self._bare else len(CALLED)) :] if end >= 0 else ""
                self._held = self._held.lstrip()
                self._state, self._value, self._fresh = "content", None, False
        return found

    def _other(self, end: int) -> list[Delta]:
        """A call whose fields stand in another order, or what is none."""
        text, self._held, self._state = self._held[:end], self._held[end + len(CALLED) :], "content"
        try:
            call = json.loads(text)
            name, arguments = call["name"], call.get("arguments", call.get("parameters", {}))
        except (ValueError, TypeError, KeyError, AttributeError):
            return [Delta("content", text)] if text else []
        self.calls += 1
        said = arguments if isinstance(arguments, str) else json.dumps(arguments)
        return [Delta("name", str(name), self.calls - 1), Delta("arguments", said, self.calls - 1)]


class Value:
    """Where a JSON value ends that arrives in pieces."""

    def __init__(self) -> None:
        self.done, self.begun, self._depth, self._string, self._escaped = False, False, 0, False, False

    def take(self, text: str) -> int:
        """How many characters of the text belong to it."""
        for i, c in enumerate(text):
            if self._string:
                self._string = self._escaped or c != '"'
                self._escaped = c == "\\" and not self._escaped
            elif c == '"':
                self._string = True
            elif c in "{[":
                self._depth += 1
            elif c in "}]" and self._depth:
                self._depth -= 1
            elif self._depth == 0 and self.begun and c in ",}] \n":
                self.done = True
                return i
            self.begun = self.begun or not c.isspace()
            if self.begun and self._depth == 0 and not self._string and c in '"}]':
                self.done = True
                return i + 1
        return len(text)


def _overlap(text: str, mark: str) -> int:
    """How much of the text's end may begin the mark."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)


def _may_be_head(start: str) -> bool:
    compact = re.sub(r"\s", "", start)
    return '{"name":"'.startswith(compact[:9]) or compact.startswith('{"name":"')
