"""Thinking longer: chains of thought, budgets of thinking, and searches over thoughts.

As in `align.sampling` a model is whatever has `generate`.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from jaxlm.decode import Greedy, Temperature
from jaxlm.errors import UserError

STEP_BY_STEP = "Let's think step by step."
WORTH = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}  # of Yao et al.
VALUE = "{problem}\n\nThoughts so far:\n{thoughts}\n\nCan the answer be reached from here? (sure/likely/impossible)\n"
VOTE = "{problem}\n\n{choices}\n\nWhich choice is the most promising? The best choice is"


def chain_of_thought(question: str, examples: Sequence[tuple[str, str, str]] = (), trigger: str = STEP_BY_STEP) -> str:
    """A prompt that asks for reasons first: with `examples` (question, thought, answer) few-shot (Wei et al. 2022,
    arXiv:2201.11903), without any by the `trigger` (Kojima et al. 2022, arXiv:2205.11916)."""
    shown = "".join(f"Q: {q}\nA: {thought} The answer is {answer}.\n\n" for q, thought, answer in examples)
    return f"{shown}Q: {question}\nA:" + ("" if examples else f" {trigger}")


# Budgets -------------------------------------------------------------------------------------------------------------


class Forced(NamedTuple):
    thought: str
    answer: str
    tokens: int  # of thinking
    waits: int


def budget_forcing(
    model: Any,
    prompt: str,
    *,
    minimum: int = 0,
    maximum: int = 512,
    wait: str = "Wait",
    waits: int = 1,
    opening: str = "<think>",
    closing: str = "</think>",
    final: str = "",
    answer_tokens: int = 64,
    stop: Any = None,
    sampler: Any = Greedy(),
    key: Any = None,
) -> Forced:
    """A thought of `minimum` to `maximum` tokens, then the answer (s1; Muennighoff et al. 2025, arXiv:2501.19393).

    Where the model closes its thought before `minimum`, `wait` is put in its place ("Espera" in Spanish, " " for a
    model that was taught nothing else) and it goes on, at most `waits` times; at `maximum` the thought is closed.
    `final` is put before the answer, such as "Final Answer:". Raises UserError for a minimum above the maximum.
    """
    if not 0 <= minimum <= maximum or maximum < 1:
        raise UserError(f"minimum={minimum} and maximum={maximum} tokens of thinking must be in order")
    key = jax.random.key(0) if key is None else key
    thought, used, waited = "", 0, 0
    while used < maximum:
        key, own = jax.random.split(key)
        found = model.generate(
            [prompt + opening + thought], max_new_tokens=maximum - used, sampler=sampler, key=own, stop=closing
        )
        new = found.texts[0]
        thought, used = thought + new, used + max(_count(model, new), 1)
        if used >= minimum or waited >= waits:
            break
        thought, waited = thought + wait, waited + 1
    (text,) = model.generate(
        [prompt + opening + thought + closing + final],
        max_new_tokens=answer_tokens,
        sampler=sampler,
        key=key,
        stop=stop,
    ).texts
    return Forced(thought, text, used, waited)


def _count(model: Any, text: str) -> int:
    tokenizer = getattr(model, "tokenizer", None)
    return len(tokenizer.encode(text)) if tokenizer is not None else len(text.split())


# Searches ------------------------------------------------------------------------------------------------------------

Propose = Callable[[str, list[str]], Sequence[str]]  # problem, thoughts so far -> next thoughts
Value = Callable[[str, list[str]], float]
Done = Callable[[str, list[str]], bool]


class Found(NamedTuple):
    thoughts: list[str]
    value: float
    visited: int


def proposals(
    model: Any, k: int, *, form: str = "{problem}\n{thoughts}", end: str = "\n", temperature: float = 1.0, **how: Any
) -> Propose:
    """Asks the model for k next thoughts, each until `end`; equal ones count once."""
    draws = iter(range(1 << 30))

    def propose(problem: str, thoughts: list[str]) -> list[str]:
        prompt = form.format(problem=problem, thoughts="".join(thoughts))
        key = jax.random.fold_in(jax.random.key(0), next(draws))
        found = model.generate([prompt] * k, sampler=Temperature(temperature), key=key, stop=end, **how)
        return [text + end for text in dict.fromkeys(found.texts) if text]

    return propose


def value_prompt(model: Any, form: str = VALUE, votes: int = 3, **how: Any) -> Value:
    """The worth of thoughts by the model's own word: the sum of 20, 1 and 0.001 for sure, likely and impossible over
    `votes` samples."""

    def value(problem: str, thoughts: list[str]) -> float:
        prompt = form.format(problem=problem, thoughts="".join(thoughts))
        texts = model.generate(
            [prompt] * votes, sampler=Temperature(1.0), key=jax.random.key(len(thoughts)), **how
        ).texts
        said = [re.search("|".join(WORTH), text.lower()) for text in texts]
        return sum(WORTH[found[0]] for found in said if found)

    return value


def vote_prompt(model: Any, problem: str, choices: Sequence[str], votes: int = 3, form: str = VOTE, **how: Any) -> int:
    """The number of the choice that the model names most often, the first of equals."""
    listed = "\n".join(f"Choice {i}: {choice}" for i, choice in enumerate(choices, 1))
    prompt = form.format(problem=problem, choices=listed)
    texts = model.generate([prompt] * votes, sampler=Temperature(1.0), key=jax.random.key(0), **how).texts
    named = [int(m[0]) - 1 for text in texts if (m := re.search(r"\d+", text))]
    counts = [named.count(i) for i in range(len(choices))]
    return max(range(len(choices)), key=lambda i: (counts[i], -i))


def breadth_first(
    problem: str, propose: Propose, value: Value, *, depth: int, width: int = 5, done: Done | None = None
) -> Found:
    """Tree of thoughts, breadth first: of all next thoughts the `width` best stay, `depth` times (Yao et al. 2023,
    arXiv:2305.10601)."""
    kept, visited = [(0.0, [])], 0
    for _ in range(depth):
        grown = [[*thoughts, one] for _, thoughts in kept for one in propose(problem, thoughts)]
        visited += len(grown)
        if not grown:
            break
        rated = sorted(((value(problem, thoughts), thoughts) for thoughts in grown), key=lambda x: -x[0])
        if done and (ready := next((x for x in rated if done(problem, x[1])), None)):
            return Found(ready[1], ready[0], visited)
        kept = rated[:width]
    return Found(kept[0][1], kept[0][0], visited)


def depth_first(
    problem: str, propose: Propose, value: Value, *, depth: int, least: float, done: Done, most: int = 100
) -> Found | None:
    """The same, depth first: the best thought is followed, one whose value is below `least` is given up; None where
    nothing is `done` after `most` thoughts."""
    visited = 0

    def follow(thoughts: list[str]) -> Found | None:
        nonlocal visited
        if thoughts and done(problem, thoughts):
            return Found(thoughts, value(problem, thoughts), visited)
        if len(thoughts) == depth:
            return None
        grown = [[*thoughts, one] for one in propose(problem, thoughts)]
        for worth, one in sorted(((value(problem, x), x) for x in grown), key=lambda x: -x[0]):
            if worth < least or visited >= most:
                return None
            visited += 1
            if found := follow(one):
                return found
        return None

    return follow([])


@dataclasses.dataclass(frozen=True)
class Chain:
    """A prompt continued by steps, and the score of each."""

    text: str
    scores: tuple[float, ...]
    ended: bool = False

    @property
    def worth(self) -> float:
        return self.scores[-1] if self.scores else 0.0


def beam_of_thoughts(
    model: Any,
    prompt: str,
    score: Callable[[Sequence[str]], Sequence[float]],
    *,
    width: int = 4,
    branch: int = 4,
    depth: int = 16,
    end: str = "\n",
    temperature: float = 1.0,
    key: Any = None,
    **how: Any,
) -> Chain:
    """Beam search over steps, each until `end`, by a process reward: `score` of texts so far is a number each, such as
    that of a `WithHead` trained by `objectives.ProcessReward` (Snell et al. 2024, arXiv:2408.03314). A chain ends where
    the model writes nothing more."""
    beams, key = [Chain(prompt, ())], jax.random.key(0) if key is None else key
    for _ in range(depth):
        open_, grown = [one for one in beams if not one.ended], [one for one in beams if one.ended]
        if not open_:
            break
        key, own = jax.random.split(key)
        asked = [one for one in open_ for _ in range(branch)]
        found = model.generate([one.text for one in asked], sampler=Temperature(temperature), key=own, stop=end, **how)
        new = {one.text + text + end * bool(text): (one, not text) for one, text in zip(asked, found.texts)}
        for text, worth in zip(new, score(list(new))):
            before, ended = new[text]
            grown.append(Chain(text, (*before.scores, float(worth)), ended))
        beams = sorted(grown, key=lambda one: -one.worth)[:width]
    return beams[0]
