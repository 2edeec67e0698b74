"""A model for evaluation is three functions of texts: `logprobs`, `rolling`, `generate`.

    logprobs([(context, continuation), ...])  -> log p(continuation | context), whether greedy decoding would write it
    rolling([text, ...])                      -> log p(text), of texts of any length, in windows
    generate([prompt, ...], ...)              -> continuations

`TokenModel` has what every model of tokens shares: how pairs are cut into tokens and texts into windows, as the public
harness does it, so that the numbers are the same. A local model (`evals/local.py`) and a server (`evals/server.py`)
say how rows of tokens are scored.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from jaxlm import arguments
from jaxlm.errors import UserError

LONGEST = 2048  # of models that say nothing of their positions


@dataclasses.dataclass(frozen=True)
class Scored:
    """The log probability of a text in nats, whether each of its tokens is the likeliest, and how many there are."""

    logprob: float
    greedy: bool
    tokens: int


class Model(Protocol):
    name: str

    def logprobs(self, pairs: Sequence[tuple[str, str]]) -> list[Scored]: ...

    def rolling(self, texts: Sequence[str], stride: int | None = None) -> list[Scored]: ...

    @abc.abstractmethod
    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 256,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """What is written behind each prompt, up to a stop."""
        ...


@dataclasses.dataclass(frozen=True)
class Row:
    """Tokens of which the last `last` are scored; the first is never."""

    ids: list[int]
    last: int


def pair_row(tokenizer: Any, context: str, continuation: str, length: int) -> Row:
    """One row of at most `length` + 1 tokens, the context cut on the left.

    Spaces at the context's end belong to the continuation, and the two are tokenised as one text, whose tokens beyond
    the context's are the continuation. An empty context is the token that begins texts. Raises UserError for a
    continuation without tokens.
    """
    stripped = context.rstrip()
    context, continuation = stripped, context[len(stripped) :] + continuation
    if context:
        before = tokenizer.encode_prompt(context)
        new = tokenizer.encode_prompt(context + continuation)[len(before) :]
    else:
        before, new = [tokenizer.eot], tokenizer.encode(continuation)
        if new[:1] == before:
            before, new = new[:1], new[1:]
    if not new:
        raise UserError(f"the continuation {continuation[:60]!r} has no token of its own behind its context")
    if len(new) > length:
        raise UserError(f"a continuation of {len(new)} tokens exceeds the {length} of a window: {continuation[:60]!r}")
    return Row((before + new)[-(length + 1) :], len(new))


def window_rows(ids: Sequence[int], prefix: int, length: int, stride: int | None = None) -> list[Row]:
    """Windows of `length` tokens over a text: each token is scored once, the first after `prefix`.

    The first window scores its `length` tokens, each further one the next `stride` (default: as many as fit), seeing
    as many before as fit: a small stride costs more and gives every token more context.
    """
    stride = length if stride is None else arguments.integer(stride, "stride", 1, length)
    whole, rows, done = [prefix, *ids], [], 0
    while done < len(ids):
        end = min(done + (stride if done else length), len(ids))
        rows.append(Row(whole[max(0, end - length) : end + 1], end - done))
        done = end
    return rows


class TokenModel(Model):
    """`logprobs` and `rolling` of a tokenizer and of `score`; `length` is the longest input of a window."""

    tokenizer: Any
    length: int

    @abc.abstractmethod
    def score(self, rows: Sequence[Row]) -> list[Scored]:
        """Each row's last tokens."""

    def logprobs(self, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
        return self.score([pair_row(self.tokenizer, *pair, self.length) for pair in pairs])

    def rolling(self, texts: Sequence[str], stride: int | None = None) -> list[Scored]:
        texts = arguments.texts(texts)
        windows = []
        for text in texts:
            ids = self.tokenizer.encode(text)
            windows.append(window_rows(ids, self.tokenizer.eot, self.length, stride))
        scored = iter(self.score([row for rows in windows for row in rows]))
        found = []
        for rows in windows:
            mine = [next(scored) for _ in rows]
            total = sum(one.logprob for one in mine), all(one.greedy for one in mine), sum(one.tokens for one in mine)
            found.append(Scored(*total))
        return found
