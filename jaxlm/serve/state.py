"""What every route needs: the model, its engine, and how the server is set."""

import dataclasses
import random
import threading
import time
from typing import Any

from jaxlm.decode import Engine
from jaxlm.errors import UserError
from jaxlm.serve import asked
from jaxlm.serve.errors import ApiError, bad


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bytes of a body, seconds of a request, and connections at a time."""

    body: int = 8 * 2**20
    seconds: float = 600.0
    connections: int = 1024


@dataclasses.dataclass
class Server:
    """A model by its name. `engine` is None for an encoder; a `key` is asked of every client where there is one."""

    name: str
    lm: Any
    engine: Any  # Engine, or None
    key: str | None = None
    template: str | None = None
    limits: Limits = Limits()
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))
    lock: Any = dataclasses.field(default_factory=threading.Lock)  # of an encoder

    @property
    def names(self) -> tuple[str, ...]:
        """Of the model, and of its adapters, which are models of their own to clients."""
        return self.name, *getattr(self.lm, "adapters", ())

    def adapter(self, body: asked.Body) -> int:
        """The number of the adapter that is asked for, 0 for none. Raises ApiError for a model that is not here."""
        name = self.name if body.get("model") is None else body["model"]
        if name not in self.names:
            here = f"{self.name!r} is" if len(self.names) == 1 else f"{', '.join(map(repr, self.names))} are"
            raise ApiError(404, f"the model {str(name)[:80]!r} is not here: {here}", "model", "model_not_found")
        return self.names.index(name)

    def called(self, body: asked.Body) -> str:
        return self.names[self.adapter(body)]

    def writes(self) -> Engine:
        if self.engine is None:
            raise bad(f"{self.name!r} is an encoder and writes no text: use /v1/embeddings", "model")
        return self.engine

    def encode(self, text: str) -> list[int]:
        if self.lm.tokenizer is None:
            raise bad("this model has no tokenizer: give token ids", "prompt")
        try:
            return self.lm.tokenizer.encode_prompt(text)
        except UserError as error:
            raise bad(str(error), "prompt") from None

    def spell(self, i: int) -> str:
        tokenizer = self.lm.tokenizer
        return tokenizer.spell(i) if tokenizer and i < tokenizer.V else f"token_id:{i}"

    def seed(self, body: asked.Body) -> int:
        """The request's own, or any."""
        value = body.get("seed")
        return random.getrandbits(31) if value is None else asked.integer(body, "seed", 0, -(2**63), 2**63 - 1)

    def usage(self, writings: list, copies: int = 1) -> dict[str, Any]:
        """Tokens of a request; the copies of a prompt count once."""
        jobs = [writing.job for writing in writings]
        prompt, new = sum(len(job.prompt) for job in jobs[::copies]), sum(len(job.tokens) for job in jobs)
        cached = {"cached_tokens": sum(job.cached for job in jobs[::copies])}
        return {
            "prompt_tokens": prompt,
            "completion_tokens": new,
            "total_tokens": prompt + new,
            "prompt_tokens_details": cached,
        }
