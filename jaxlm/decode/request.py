"""What a text that is to be written asks of the engine, and how far it is."""

import dataclasses
import enum
import threading
from collections.abc import Callable, Sequence
from typing import Any

from jaxlm.decode.constrained.constraint import Matching
from jaxlm.decode.sampling import Greedy, Sampler


class Finish(enum.Enum):
    """Why a text ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True)
class Token:
    """A chosen token, its log probability under the model, and where asked for the likeliest in its place."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(eq=False)
class Job:
    """One text: what is asked for, then what has come of it.

    `watch` is called in the engine's thread with the job and its new tokens; True ends the text there. `ended` is
    called once, whatever ended it. Neither may wait.
    """

    prompt: Sequence[int]
    max_new_tokens: int = 64
    sampler: Sampler = Greedy()  # of the kinds that the engine knows
    seed: int = 0
    stop: tuple[int, ...] = ()  # token ids, which are told as any other
    top: int = 0  # how many of the likeliest tokens are told
    prompt_logprobs: bool = False  # whether the prompt's tokens are told
    constraint: Matching | None = None  # of this text alone: `Constraint.compile(...).matcher()`
    adapter: int = 0  # of those side by side in the parameters, from 1 on; 0 is the base
    watch: Callable[["Job", list[Token]], bool | None] = lambda job, new: None
    ended: Callable[["Job"], None] = lambda job: None

    tokens: list[Token] = dataclasses.field(default_factory=list)
    read: list[Token] = dataclasses.field(default_factory=list)  # of the prompt, but for its first
    finish: Finish | None = None
    error: str = ""
    cached: int = 0  # tokens of the prompt that were known
    preempted: int = 0  # times
    cancelled: bool = False
    arrival: int = 0
    remembered: Any = None  # what the sampler remembered when it was preempted
    done: threading.Event = dataclasses.field(default_factory=threading.Event)

    @property
    def ids(self) -> list[int]:
        """Chosen tokens."""
        return [token.id for token in self.tokens]

    def end(self, finish: Finish) -> None:
        """Ends it; a second time nothing happens."""
        if self.finish is None:
            self.finish = finish
            self.remembered = None
            self.done.set()
            self.ended(self)
