"""The kinds of items that tasks are made of, and how an item is asked of a model and scored.

`Choices` asks for log probabilities, `Writing` for a text, `Reading` for the log probability of a whole text.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxlm.evals.model import Scored

Scores = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Choices:
    """(context, continuation) of each option; `gold` are the right ones. `shown` is the item with its answer, for the
    prompts of others. Where contexts differ (WinoGrande), continuations are the same and lengths mean nothing."""

    pairs: tuple[tuple[str, str], ...]
    gold: tuple[int, ...]
    shown: str = ""
    group: str = ""

    def score(self, found: Sequence[Scored]) -> tuple[Scores, Any]:
        """acc: the likeliest option is right. acc_norm: by the log probability a byte of the option, acc_token: a
        token. mc2: the share of probability on right options. brier and ece_p (the confidence) of softmax(logprob)."""
        logprobs = np.array([one.logprob for one in found])
        texts = [text.strip() for _, text in self.pairs]
        size = np.array([max(1, len(text.encode())) for text in texts])
        tokens = np.array([max(1, one.tokens) for one in found])
        p = np.exp(logprobs - logprobs.max())
        p /= p.sum()
        right = np.isin(np.arange(len(p)), self.gold)
        best = int(logprobs.argmax())
        scores = {"acc": float(best in self.gold), "mc2": float(p[right].sum())}
        if len({context for context, _ in self.pairs}) == 1:
            scores |= {"acc_norm": float(int((logprobs / size).argmax()) in self.gold)}
            scores |= {"acc_token": float(int((logprobs / tokens).argmax()) in self.gold)}
        target = right / right.sum()
        scores |= {"brier": float(((p - target) ** 2).sum())}
        return scores, {"choice": best, "logprobs": [float(one.logprob) for one in found], "confidence": float(p.max())}


@dataclasses.dataclass(frozen=True)
class Writing:
    """A prompt, and what is made of the text behind it: scores, and what is logged."""

    prompt: str
    judge: Callable[[str], Scores]
    stop: tuple[str, ...] = ()
    new: int = 256
    shown: str = ""
    group: str = ""
    samples: int = 1
    reference: str = ""


@dataclasses.dataclass(frozen=True)
class Reading:
    """A text to be read whole."""

    text: str
    group: str = ""
    shown: str = ""

    def score(self, found: Scored) -> tuple[Scores, Any]:
        """Sums, which `Reading.measures` divides: nats, tokens, bytes, words."""
        words, size = len(self.text.split()), len(self.text.encode())
        return {"nll": -found.logprob, "tokens": found.tokens, "bytes": size, "words": words}, None

    @staticmethod
    def measures(rows: Sequence[Scores]) -> Scores:
        """perplexity = exp(nll / tokens), word_perplexity; bits_per_byte = nll / ln 2 / bytes, whatever the tokens."""
        nll, tokens, size, words = (sum(row[key] for row in rows) for key in ("nll", "tokens", "bytes", "words"))
        safe = lambda n: math.exp(min(700.0, nll / n)) if n else math.nan
        bits = nll / math.log(2) / size if size else math.nan
        return {"bits_per_byte": bits, "perplexity": safe(tokens), "word_perplexity": safe(words)}


Item = Choices | Writing | Reading


def choices(
    context: str, options: Sequence[str], gold: int | Sequence[int], group: str = "", gap: str = " "
) -> Choices:
    """Options behind one context; `gap` stands between, and belongs to the option."""
    gold = (gold,) if isinstance(gold, int) else tuple(gold)
    shown = f"{context}{gap}{options[gold[0]]}"
    return Choices(tuple((context, gap + option) for option in options), gold, shown, group)


def asked(item: Item, before: str) -> Item:
    """The item with other items, answered, in front."""
    if isinstance(item, Choices):
        return dataclasses.replace(item, pairs=tuple((before + a, b) for a, b in item.pairs))
    return dataclasses.replace(item, prompt=before + item.prompt) if isinstance(item, Writing) else item
