"""A model as a judge of answers: marks, and pairs in both orders (Zheng et al. 2023, arXiv:2306.05685).

What a judge prefers for the wrong reasons is measured on planted cases: answers that are alike but for their place,
their length, or who wrote them. Both orders remove the first, `arena.bradley_terry` with the feature "length" the
second, and a judge that is not the judged's own model the third.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxlm.apps.arena import Battle, style
from jaxlm.errors import UserError, unknown
from jaxlm.evals.metrics import same_length
from jaxlm.evals.model import Model
from jaxlm.evals.rows import rows
from jaxlm.evals.statistics import bootstrap

Write = Callable[[str], str]

SINGLE = """Rate how well the answer below does what the user asks, from 1 to 10. Give your reasons briefly, then the
mark in double brackets, as in [[5]].

User: {question}

Answer:
{answer}

Your reasons and mark:"""
PAIR = """Which of two answers does better what the user asks? Neither their order nor their length counts. Give your
reasons briefly, then your verdict: [[A]], [[B]], or [[C]] for a tie.

User: {question}

Answer A:
{answer_a}

Answer B:
{answer_b}

Your reasons and verdict:"""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`score` of the first answer, None where the judge gave none in its form; what it wrote, in each order."""

    score: float | None
    rationales: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Judge:
    """`write(prompt)` is the judge's text, at temperature 0. `name`: its base model, which is not to judge itself."""

    write: Write
    name: str = "judge"
    single: str = SINGLE
    pair: str = PAIR

    def refuse_itself(self, *models: str) -> None:
        """Raises UserError where one of the judged is the judge."""
        if self.name in models:
            raise UserError(f"{self.name} is to judge itself: take another base model as the judge")

    def mark(self, question: str, answer: str) -> Verdict:
        """1 to 10, in [[...]] or [...]."""
        said = self.write(self.single.format(question=question, answer=answer))
        found = re.findall(r"\[\[(\d+\.?\d*)\]\]", said) or re.findall(r"\[(\d+\.?\d*)\]", said)
        return Verdict(float(found[-1]) if found and 1 <= float(found[-1]) <= 10 else None, (said,))

    def once(self, question: str, a: str, b: str) -> Verdict:
        """1 where the first is better, 0 where the second, .5 of a tie; in this order alone."""
        said = self.write(self.pair.format(question=question, answer_a=a, answer_b=b))
        found = re.findall(r"\[\[([ABC])\]\]", said)
        return Verdict({"A": 1.0, "B": 0.0, "C": 0.5}[found[-1]] if found else None, (said,))

    def compare(self, question: str, a: str, b: str) -> Verdict:
        """In both orders: a win only where they agree, else a tie; None where one gave no verdict."""
        first, second = self.once(question, a, b), self.once(question, b, a)
        said = first.rationales + second.rationales
        if first.score is None or second.score is None:
            return Verdict(None, said)
        return Verdict(first.score if first.score == 1 - second.score else 0.5, said)


def templates(path: str | Path, single: str = "single-v1", pair: str = "pair-v2") -> dict[str, str]:
    """The published templates of MT-bench, as `Judge(..., **templates(path))` takes them."""
    found = {row.need("name"): row for row in rows(path)}
    for name in (single, pair):
        if name not in found:
            raise unknown("template", name, found)
    whole = lambda name: f"{found[name].need('system_prompt')}\n\n{found[name].need('prompt_template')}"
    return {"single": whole(single), "pair": whole(pair)}


def play(models: Sequence[Model], questions: Sequence[str], judge: Judge, new: int = 256) -> list[Battle]:
    """Every two models answer every question; battles with the style of both answers. Verdicts in no form are left
    out. Raises UserError for two models of one name, and where the judge is one of them."""
    names = [model.name for model in models]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two models have one name, {twice!r}")
    judge.refuse_itself(*names)
    answers = [model.generate(list(questions), new) for model in models]
    battles = []
    for i in range(len(models)):
        for j in range(i):
            for question, a, b in zip(questions, answers[i], answers[j]):
                score = judge.compare(question, a, b).score
                if score is not None:
                    battles.append(Battle(names[i], names[j], score, (style(a), style(b))))
    return battles


@dataclasses.dataclass(frozen=True)
class Bias:
    """How far the share of preferences lies from one half, and its interval; `n` verdicts counted."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, shares: Sequence[float]) -> "Bias":
        if not shares:
            raise UserError("the judge gave no verdict in its form: its biases cannot be measured")
        away = np.array(shares) - 0.5
        return cls(float(away.mean()), *bootstrap(away), len(away))


def position_bias(judge: Judge, cases: Sequence[tuple[str, str, str]]) -> Bias:
    """How much the first place gains: over (question, a, b) in both orders, whatever their quality."""
    found = [judge.once(q, *pair).score for q, a, b in cases for pair in ((a, b), (b, a))]
    pairs = [(x, y) for x, y in zip(found[::2], found[1::2]) if x is not None and y is not None]
    return Bias.of([(x + y) / 2 for x, y in pairs])


def preference_bias(judge: Judge, cases: Sequence[tuple[str, str, str]], both: bool = True) -> Bias:
    """How much is preferred what is listed first in cases alike but for one thing, such as a padded answer, or one of
    the judge's own, before another of the same worth; in `both` orders, or with the first in the first place."""
    ask = judge.compare if both else judge.once
    found = [ask(*case).score for case in cases]
    return Bias.of([score for score in found if score is not None])


def agreement(found: Sequence[float], wanted: Sequence[float]) -> dict[str, float]:
    """With people's labels: the share of equal verdicts, and Cohen's kappa (1960), (seen - chance) / (1 - chance)."""
    same_length(found, wanted, "labels")
    seen = sum(a == b for a, b in zip(found, wanted)) / len(found)
    said, given = Counter(found), Counter(wanted)
    chance = sum(said[x] * given[x] for x in said) / len(found) ** 2
    return {"agreement": seen, "kappa": (seen - chance) / (1 - chance) if chance < 1 else 1.0}
