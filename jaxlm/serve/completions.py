"""/v1/completions: texts or tokens that are continued."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from jaxlm.decode import Token
from jaxlm.decode.constrained import Compiled
from jaxlm.serve import asked
from jaxlm.serve.errors import bad
from jaxlm.serve.state import Server
from jaxlm.serve.writing import Ask, Piece, Request, Writing, room
from jaxlm.text import TextStream

PROMPTS = 128  # of one request


class Completion(Request):
    """One request. `whole` and `chunks` are its two kinds of answer."""

    def __init__(self, server: Server, body: asked.Body, compiled: Compiled | None = None):
        self.server, lm, V = server, server.lm, server.lm.config.V
        if body.get("suffix"):
            raise bad("suffix is not supported: the models here continue texts", "suffix")
        self.prompts = self._prompts(body.get("prompt", ""))
        self.n = asked.integer(body, "n", 1, 1, asked.COPIES)
        self.best = asked.integer(body, "best_of", self.n, 1, asked.COPIES)
        self.stream, self.echo = asked.flag(body, "stream"), asked.flag(body, "echo")
        if self.best < self.n or (self.stream and self.best > self.n):
            raise bad("best_of must be at least n, and n where the answer is streamed", "best_of")
        self.told = body.get("logprobs") is not None and body["logprobs"] is not False
        top = 1 if body.get("logprobs") is True else asked.tops(body, "logprobs")
        wanted = asked.integer(body, "max_tokens", 16, 0, 2**30) if body.get("max_tokens") is not None else None
        if wanted == 0 and not self.echo:
            raise bad("max_tokens must be at least 1 without echo", "max_tokens")
        self.usage = asked.flag(body.get("stream_options") or {}, "include_usage")
        sampler, stops, seed = asked.sampler(body, V), asked.stops(body, V), server.seed(body)
        news = [room(server.engine, len(prompt), wanted, 16) for prompt in self.prompts]
        head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
        self.head = {**head, "model": server.called(body)}
        told = self.echo and self.told, compiled, not self.stream, server.adapter(body)
        asks = [Ask(new, sampler, seed, stops, top, *told) for new in news]
        self.write(
            Writing(server.engine, lm, prompt, ask, seed + p * self.best + i)
            for p, (prompt, ask) in enumerate(zip(self.prompts, asks))
            for i in range(self.best)
        )

    async def whole(self) -> dict[str, Any]:
        found = []
        for at, writing in enumerate(self.writings):
            pieces = [piece async for piece in writing]
            found.append((at // self.best, writing, pieces))
        choices = []
        for p in range(len(self.prompts)):
            mine = [(writing, pieces) for q, writing, pieces in found if q == p]
            if self.best > self.n:
                mine = sorted(mine, key=lambda one: -_mean([t.logprob for t in one[0].job.tokens]))[: self.n]
            for writing, pieces in mine:
                text = self._before(writing) + "".join(piece.text for piece in pieces)
                tokens = [token for piece in pieces for token in piece.tokens]
                logprobs = Told(self.server, writing, self.echo).of(tokens) if self.told else None
                choices.append(_choice(len(choices), text, logprobs, pieces[-1].finish))
        return {**self.head, "choices": choices, "usage": self.server.usage(self.writings, self.best)}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        none = {"usage": None} if self.usage else {}
        told = [Told(self.server, writing, self.echo) for writing in self.writings]
        async for at, piece in merged(self.writings):
            text = (self._before(self.writings[at]) if told[at].fresh else "") + piece.text
            logprobs = told[at].of(piece.tokens) if self.told else None
            told[at].fresh = False
            if text or piece.finish or piece.tokens:
                yield {**self.head, "choices": [_choice(at, text, logprobs, piece.finish)], **none}
        if self.usage:
            yield {**self.head, "choices": [], "usage": self.server.usage(self.writings, self.best)}

    def _before(self, writing: Writing) -> str:
        tokenizer = self.server.lm.tokenizer
        return tokenizer.decode(list(writing.job.prompt), skip_special=True) if self.echo and tokenizer else ""

    def _prompts(self, given: Any) -> list[list[int]]:
        of_ids = lambda x: isinstance(x, list) and x and all(type(i) is int for i in x)
        several = [given] if isinstance(given, str) or of_ids(given) else given
        if not isinstance(several, list) or not several or not all(isinstance(x, str) or of_ids(x) for x in several):
            raise bad("prompt must be a string, a list of token ids, or a list of these", "prompt")
        if len(several) > PROMPTS:
            raise bad(f"at most {PROMPTS} prompts a request, got {len(several)}", "prompt")
        return [self.server.encode(one) if isinstance(one, str) else one for one in several]


class Told:
    """The `logprobs` of a choice, piece by piece: offsets go on, the first token of a text has none."""

    def __init__(self, server: Server, writing: Writing, echo: bool):
        self.server, self.writing, self.echo, self.fresh, self._at = server, writing, echo, True, 0
        self._text = TextStream(server.lm.tokenizer, skip_special=True) if server.lm.tokenizer else None

    def of(self, tokens: list[Token]) -> dict[str, Any]:
        found = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        if self.fresh:
            job = self.writing.job
            if self.echo:
                self._add(found, Token(job.prompt[0], 0.0), first=True)
                for token in job.read:
                    self._add(found, token)
            elif self._text:
                self._text.push(list(job.prompt))
            self.fresh = False
        for token in tokens:
            self._add(found, token)
        return found

    def _add(self, found: dict[str, list], token: Token, first: bool = False) -> None:
        spell = self.server.spell
        found["tokens"].append(spell(token.id))
        found["token_logprobs"].append(None if first else token.logprob)
        found["top_logprobs"].append(
            None if first else {spell(i): p for i, p in [*token.top, (token.id, token.logprob)]}
        )
        found["text_offset"].append(self._at)
        self._at += len(self._text.push([token.id])) if self._text else 0


async def merged(writings: list[Writing]) -> AsyncIterator[tuple[int, Piece]]:
    """The pieces of several texts as they come, each with the number of its text."""
    queue: asyncio.Queue = asyncio.Queue()

    async def pump(at: int, writing: Writing) -> None:
        try:
            async for piece in writing:
                await queue.put((at, piece))
        except Exception as error:
            await queue.put((at, error))

    tasks = [asyncio.create_task(pump(at, writing)) for at, writing in enumerate(writings)]
    left = len(tasks)
    try:
        while left:
            at, piece = await queue.get()
            if isinstance(piece, Exception):
                raise piece
            yield at, piece
            left -= piece.finish is not None
    finally:
        for task in tasks:
            task.cancel()
        for writing in writings:
            writing.cancel()


def _choice(index: int, text: str, logprobs: Any, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
