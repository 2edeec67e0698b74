"""/v1/responses, the basic part: text in, text out, whole or as typed events. Nothing is stored."""

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from jaxlm.decode.constrained import Compiled
from jaxlm.serve import asked
from jaxlm.serve.chat import Chat
from jaxlm.serve.errors import bad
from jaxlm.serve.state import Server

REFUSED = "previous_response_id", "conversation", "prompt", "background"


class Answer:
    """One request, as a chat of one choice."""

    def __init__(self, server: Server, body: asked.Body, compiled: Compiled | None = None):
        for name in REFUSED:
            if body.get(name):
                raise bad(f"{name} is not supported: nothing is stored here", name)
        given = body.get("input")
        messages = [{"role": "user", "content": given}] if isinstance(given, str) else given
        if not isinstance(messages, list) or not messages:
            raise bad("input must be a text or a list of messages", "input")
        if body.get("instructions"):
            messages = [{"role": "system", "content": asked.text(body, "instructions")}, *messages]
        names = "temperature", "top_p", "stream", "seed", "model"
        chat = {"messages": messages, **{name: body[name] for name in names if name in body}}
        if body.get("max_output_tokens") is not None:
            chat["max_completion_tokens"] = asked.integer(body, "max_output_tokens", 1, 1, 2**30)
        if body.get("tools"):
            raise bad("tools are not supported by /v1/responses: use /v1/chat/completions", "tools")
        self.chat, self.server = Chat(server, chat, compiled), server
        self.stream, self.writings = self.chat.stream, self.chat.writings
        self.id, self.item = f"resp_{uuid.uuid4().hex}", f"msg_{uuid.uuid4().hex}"
        self.created = time.time()

    def cancel(self) -> None:
        self.chat.cancel()

    async def whole(self) -> dict[str, Any]:
        choice = (await self.chat.whole())["choices"][0]
        return self._response(choice["message"]["content"] or "", choice["finish_reason"])

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        count, text, finish = 0, "", None
        place = {"item_id": self.item, "output_index": 0, "content_index": 0}

        def event(kind: str, **more: Any) -> dict[str, Any]:
            nonlocal count
            count += 1
            return {"type": f"response.{kind}", "sequence_number": count - 1, **more}

        yield event("created", response=self._response("", None))
        yield event("in_progress", response=self._response("", None))
        yield event("output_item.added", output_index=0, item=self._item("", "in_progress") | {"content": []})
        yield event("content_part.added", **place, part=_part(""))
        async for chunk in self.chat.chunks():
            choice = chunk["choices"][0]
            finish = choice["finish_reason"] or finish
            if new := choice["delta"].get("content"):
                text += new
                yield event("output_text.delta", **place, delta=new, logprobs=[])
        yield event("output_text.done", **place, text=text, logprobs=[])
        yield event("content_part.done", **place, part=_part(text))
        yield event("output_item.done", output_index=0, item=self._item(text, "completed"))
        done = self._response(text, finish)
        yield event("incomplete" if done["status"] == "incomplete" else "completed", response=done)

    def _item(self, text: str, status: str) -> dict[str, Any]:
        return {"id": self.item, "type": "message", "role": "assistant", "status": status, "content": [_part(text)]}

    def _response(self, text: str, finish: str | None) -> dict[str, Any]:
        status = {None: "in_progress", "length": "incomplete"}.get(finish, "completed")
        usage = self.server.usage(self.writings)
        told = {
            "input_tokens": usage["prompt_tokens"],
            "output_tokens": usage["completion_tokens"],
            "total_tokens": usage["total_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.chat.head["model"],
            "output": [self._item(text, status)] if finish else [],
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "error": None,
            "instructions": None,
            "metadata": {},
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
            "usage": told if finish else None,
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
