"""From the engine's tokens to text that a client may be sent: stops are looked for, halves of characters held back."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from jaxlm.api.model import LanguageModel, push, stop_at, unmarked
from jaxlm.decode import Engine, Finish, Full, Job, Sampler, Token
from jaxlm.decode.constrained import Compiled
from jaxlm.errors import UserError
from jaxlm.serve.errors import ApiError, bad
from jaxlm.text import TextStream


@dataclasses.dataclass(frozen=True)
class Piece:
    """Text that may be sent, and the tokens since the last piece; `finish` only in the last."""

    text: str
    tokens: list[Token]
    finish: str | None = None


@dataclasses.dataclass(frozen=True)
class Ask:
    """What all the texts of a request have in common."""

    max_new_tokens: int
    sampler: Sampler = Sampler()
    seed: int = 0
    stops: Sequence[str | int] = ()
    top: int = 0
    echo: bool = False  # tell the prompt's tokens
    compiled: Compiled | None = None  # what the text must be
    whole: bool = False  # told when it is over, not while it is written
    adapter: int = 0  # as in `Job`


class Writing:
    """One text being written: iterate over its pieces, in the loop that made it; `cancel` when nobody reads on.

    The text ends where `until`, which is given it piece by piece, is true.
    """

    def __init__(
        self, engine: Engine, lm: LanguageModel, prompt: Sequence[int], ask: Ask, seed: int, until: Any = None
    ):
        self.engine, self.lm, self.until = engine, lm, until
        ids, self._stops, self._marks = lm.ended_by(list(ask.stops)) if lm.tokenizer else (_ids(ask.stops), [], {})
        self._ids = set(ids)
        if ask.compiled:
            checked(ask.compiled, ask.max_new_tokens)
        self._keep = max((len(stop) - 1 for stop in self._stops), default=0)
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue()
        self._stream = TextStream(lm.tokenizer, skip_special=True) if lm.tokenizer else None
        self._held, self._tokens, self._stopped, self._over = "", [], False, False
        self._whole, self._kept = ask.whole, ""
        if self._stream:
            self._stream.push(list(prompt))  # a space after it, or the rest of a character, belongs to what is written
        self.job = Job(
            prompt,
            ask.max_new_tokens,
            ask.sampler,
            seed,
            tuple(ids),
            ask.top,
            ask.echo,
            ask.compiled.matcher() if ask.compiled else None,
            ask.adapter,
            watch=self._watch,
            ended=self._ended,
        )
        self.began, self.first = time.monotonic(), None
        submit(engine, self.job)

    def cancel(self) -> None:
        self.engine.cancel(self.job)

    async def __aiter__(self) -> AsyncIterator[Piece]:
        try:
            while True:
                piece = await self._events.get()
                if isinstance(piece, ApiError):
                    raise piece
                yield piece
                if piece.finish:
                    return
        finally:
            self.cancel()

    # In the engine's thread -------------------------------------------------------------------------------------------

    def _watch(self, job: Job, new: list[Token]) -> bool:
        for token in new:
            self._tokens.append(token)
            if token.id not in self._ids:
                self._held += self._text(token.id)
        at = stop_at(self._held, self._stops)
        if at is not None:
            self._held, self._stopped = self._held[:at], True
            return True
        ready = len(self._held) - self._keep
        if ready > 0 or not self._stops:
            self._send(self._held[:ready] if self._stops else self._held)
            self._held = self._held[ready:] if self._stops else ""
        return self._over

    def _text(self, i: int) -> str:
        return push(self._stream, [i], self._marks) if self._stream else ""

    def _send(self, text: str, finish: str | None = None) -> None:
        text = unmarked(text)
        self._over = bool(self.until and self.until(text))
        self.first = self.first or time.monotonic()
        self._kept += text
        if self._whole and finish is None:  # no need to wake the loop
            return
        piece, self._tokens, self._kept = Piece(self._kept, self._tokens, finish), [], ""
        self._put(piece)

    def _ended(self, job: Job) -> None:
        if job.finish is Finish.FAILED:
            return self._put(ApiError(500, f"the engine failed: {job.error}"))
        if not self._stopped and self._stream:
            self._held += self._stream.flush()
            at = stop_at(self._held, self._stops)
            self._held = self._held if at is None else self._held[:at]
        self._send(self._held, "length" if job.finish is Finish.LENGTH and not self._stopped else "stop")

    def _put(self, event: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class Request:
    """What is asked for, as texts that are written beside each other."""

    writings: list[Writing]

    def write(self, writings: Iterable[Writing]) -> None:
        """Begins them all, or where one is refused none."""
        self.writings = []
        try:
            for writing in writings:
                self.writings.append(writing)
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        for writing in self.writings:
            writing.cancel()


def checked(compiled: Compiled, max_new_tokens: int) -> None:
    try:
        compiled.check(max_new_tokens)
    except UserError as error:
        raise bad(str(error), "max_tokens") from None


def submit(engine: Engine, job: Job) -> None:
    """`Engine.submit`, with its errors as a client's."""
    try:
        engine.submit(job)
    except Full as error:
        raise ApiError(503 if "closing" in str(error) else 429, str(error), after=1) from None
    except UserError as error:
        raise bad(str(error), "prompt") from None


def room(engine: Engine, length: int, wanted: int | None, default: int | None) -> int:
    """How many tokens a prompt of `length` may get. Raises ApiError where it is too long."""
    if not length:
        raise bad("the prompt has no token", "prompt")
    left = engine.slots - length
    new = wanted if wanted is not None else min(left, default) if default is not None else left
    if left < max(new, 0 if wanted == 0 else 1):
        asked = "" if wanted is None else f" and {wanted} new ones"
        raise bad(
            f"the maximum context length is {engine.slots} tokens; the prompt has {length}{asked}: shorten it",
            "prompt",
            "context_length_exceeded",
        )
    return new


def _ids(stops: Sequence[str | int]) -> tuple[int, ...]:
    if any(isinstance(one, str) for one in stops):
        raise bad("this model has no tokenizer: give stop_token_ids", "stop")
    return tuple(one for one in stops if isinstance(one, int))
