"""/v1/chat/completions: conversations by the model's own template, calls of tools, reasoning."""

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from jaxlm.decode import Token
from jaxlm.decode.constrained import Compiled
from jaxlm.errors import UserError
from jaxlm.serve import asked
from jaxlm.serve.completions import merged
from jaxlm.serve.errors import bad
from jaxlm.serve.parts import CALL, THINK, Delta, Parts
from jaxlm.serve.state import Server
from jaxlm.serve.writing import Ask, Piece, Request, Writing, room
from jaxlm.text import encode_chat
from jaxlm.text.chat.template import PLAIN

MESSAGES = 4096
TAKEN = {"tokenizer", "messages", "tools", "add_generation_prompt", "template"}  # of encode_chat


class Chat(Request):
    """One request. `whole` and `chunks` are its two kinds of answer."""

    def __init__(self, server: Server, body: asked.Body, compiled: Compiled | None = None):
        self.server, V = server, server.lm.config.V
        if server.lm.tokenizer is None:
            raise bad("this model has no tokenizer, so it cannot chat: give tokens to /v1/completions", "model")
        tools, forced = _tools(body)
        template = server.template or server.lm.tokenizer.settings.chat_template or PLAIN
        variables = body.get("chat_template_kwargs") or {}
        if not isinstance(variables, dict) or variables.keys() & TAKEN:
            raise bad("chat_template_kwargs must be an object of the template's own variables", "chat_template_kwargs")
        ids, call = self._prompt(_messages(body), tools, forced, template, variables)
        self.n = asked.integer(body, "n", 1, 1, asked.COPIES)
        self.stream = asked.flag(body, "stream")
        self.told, top = asked.flag(body, "logprobs"), asked.tops(body, "top_logprobs")
        if top and not self.told:
            raise bad("top_logprobs needs logprobs", "top_logprobs")
        self.top = top
        self.usage = asked.flag(body.get("stream_options") or {}, "include_usage")
        name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
        wanted = asked.integer(body, name, 1, 1, 2**30) if body.get(name) is not None else None
        new = room(server.engine, len(ids), wanted, None)
        how = asked.sampler(body, V), server.seed(body), asked.stops(body, V), top, False, compiled
        ask = Ask(new, *how, not self.stream, server.adapter(body))
        thinking = server.lm.tokenizer.decode(ids[-8:]).rstrip().endswith(THINK)
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time())}
        self.head = {**head, "model": server.called(body)}
        self.parts = [Parts(bool(tools), thinking, call) for _ in range(self.n)]
        until = lambda: None if call is None else _whole_call(call)
        self.write(Writing(server.engine, server.lm, ids, ask, ask.seed + i, until()) for i in range(self.n))

    def _prompt(
        self, messages: list, tools: Any, forced: str | None, template: Any, variables: dict[str, Any]
    ) -> tuple[list[int], str | None]:
        """The ids, and where a tool must be called the beginning of its call, which ends them."""
        try:
            ids = encode_chat(self.server.lm.tokenizer, messages, tools, True, template, **variables)[0]
            if forced is None:
                return ids, None
            hermes = CALL in str(template)
            key = "arguments" if hermes else "parameters"
            call = '{"name": "' if not forced else f'{{"name": {json.dumps(forced)}, "{key}": '
            before = f"{CALL}\n" if hermes else ""
            return [*ids, *self.server.lm.tokenizer.encode_marked(before + call)[0]], call
        except UserError as error:
            raise bad(str(error), "messages") from None

    async def whole(self) -> dict[str, Any]:
        choices = []
        for i, (writing, parts) in enumerate(zip(self.writings, self.parts)):
            message: dict[str, Any] = {"role": "assistant", "content": ""}
            calls: list[dict[str, Any]] = []
            told, finish = [], "stop"
            async for piece in writing:
                for delta in parts.push(piece.text, piece.finish is not None):
                    _merge(message, calls, delta)
                told += [self._told(token) for token in piece.tokens]
                finish = piece.finish or finish
            if calls:
                message |= {"tool_calls": calls, "content": message["content"] or None}
                finish = "tool_calls" if finish == "stop" else finish
            logprobs = {"content": told, "refusal": None} if self.told else None
            choices.append({"index": i, "message": message, "logprobs": logprobs, "finish_reason": finish})
        usage = self.server.usage(self.writings, self.n)
        return {**self.head, "object": "chat.completion", "choices": choices, "usage": usage}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        head = {**self.head, "object": "chat.completion.chunk"} | ({"usage": None} if self.usage else {})

        def chunk(i: int, delta: dict[str, Any], finish: str | None = None, told: Any = None) -> dict[str, Any]:
            return {**head, "choices": [{"index": i, "delta": delta, "logprobs": told, "finish_reason": finish}]}

        for i in range(self.n):
            yield chunk(i, {"role": "assistant", "content": ""})
        async for i, piece in merged(self.writings):
            told = self._logprobs(piece)
            for delta in self.parts[i].push(piece.text, piece.finish is not None):
                yield chunk(i, _delta(delta), None, told)
                told = None
            if told:
                yield chunk(i, {"content": ""}, None, told)
            if piece.finish:
                called = self.parts[i].calls and piece.finish == "stop"
                yield chunk(i, {}, "tool_calls" if called else piece.finish)
        if self.usage:
            yield {**head, "choices": [], "usage": self.server.usage(self.writings, self.n)}

    def _logprobs(self, piece: Piece) -> Any:
        if not self.told or not piece.tokens:
            return None
        return {"content": [self._told(token) for token in piece.tokens], "refusal": None}

    def _told(self, token: Token) -> dict[str, Any]:
        top = [self._one(i, p) for i, p in token.top[: self.top]]
        return {**self._one(token.id, token.logprob), "top_logprobs": top}

    def _one(self, i: int, logprob: float) -> dict[str, Any]:
        tokenizer = self.server.lm.tokenizer
        data = tokenizer.pieces[i] if i < tokenizer.V else b""
        return {"token": self.server.spell(i), "logprob": logprob, "bytes": list(data) or None}


def _messages(body: asked.Body) -> list[dict[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or len(messages) > MESSAGES:
        raise bad(f"messages must be a list of 1 to {MESSAGES} messages", "messages")
    found = []
    for at, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise bad(f"messages[{at}] must be an object with a role", "messages")
        message, content = dict(message), message.get("content")
        if isinstance(content, list):
            texts = [part.get("text") if isinstance(part, dict) else None for part in content]
            if not all(isinstance(one, str) for one in texts):
                raise bad(f"messages[{at}]: only parts of text can be read", "messages")
            message["content"] = "".join(map(str, texts))
        elif content is not None and not isinstance(content, str):
            raise bad(f"messages[{at}].content must be a string or a list of parts", "messages")
        message["role"] = "system" if message["role"] == "developer" else message["role"]
        found.append(message)
    return found


def _tools(body: asked.Body) -> tuple[list[dict[str, Any]] | None, str | None]:
    """The tools that the model is told of, and the one that it must call: "" any, None need not."""
    tools, choice = body.get("tools") or None, body.get("tool_choice", "auto")
    if tools is not None:
        whole = isinstance(tools, list) and all(
            isinstance(t, dict) and isinstance(t.get("function"), dict) for t in tools
        )
        if not whole or not all(isinstance(t["function"].get("name"), str) for t in tools):
            raise bad('tools must be a list of {"type": "function", "function": {"name": ...}}', "tools")
    names = [tool["function"]["name"] for tool in tools or []]
    if choice in ("none", None) or (choice == "auto"):
        return (None if choice == "none" else tools), None
    if choice == "required":
        name = names[0] if len(names) == 1 else ""
    elif isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        name = choice["function"].get("name")
    else:
        raise bad('tool_choice must be "none", "auto", "required" or a function', "tool_choice")
    if not names or (name and name not in names):
        raise bad(f"tool_choice: there is no tool {name!r} among {names}", "tool_choice")
    return tools, name


def _whole_call(call: str) -> Any:
    """Tells of a text that goes on with `call`, pushed piece by piece, whether it is a whole call by now."""
    parts = Parts(True, call=call)

    def whole(text: str) -> bool:
        parts.push(text)
        return parts.called

    return whole


def _delta(delta: Delta) -> dict[str, Any]:
    if delta.kind == "name":
        call = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function"}
        return {"tool_calls": [{"index": delta.call, **call, "function": {"name": delta.text, "arguments": ""}}]}
    if delta.kind == "arguments":
        return {"tool_calls": [{"index": delta.call, "function": {"arguments": delta.text}}]}
    return {"content" if delta.kind == "content" else "reasoning_content": delta.text}


def _merge(message: dict[str, Any], calls: list[dict[str, Any]], delta: Delta) -> None:
    if delta.kind == "name":
        call = {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function"}
        calls.append({**call, "function": {"name": delta.text, "arguments": ""}})
    elif delta.kind == "arguments":
        calls[delta.call]["function"]["arguments"] += delta.text
    else:
        key = "content" if delta.kind == "content" else "reasoning_content"
        message[key] = message.get(key, "") + delta.text
