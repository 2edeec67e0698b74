"""More samples of an answer: the best of N by a score, rejection sampling into training data, and the majority.

Everything is over whatever has `generate(prompts, max_new_tokens=, sampler=, key=, stop=)` that gives `texts` and
`logprobs`, as `jaxlm.load` and `align.remote.Remote` do.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxlm.align.rewards import answer_of
from jaxlm.decode import Temperature
from jaxlm.errors import UserError
from jaxlm.files import write_file
from jaxlm.paths import expand

Score = Callable[[Sequence[str], Sequence[str]], Any]  # prompts, texts -> a number each


class Samples(NamedTuple):
    """Of each prompt N texts, (P, N)."""

    texts: list[list[str]]
    logprobs: np.ndarray  # summed over their tokens


def samples(
    model: Any, prompts: Sequence[str], N: int, *, temperature: float = 1.0, key: Any = None, **how: Any
) -> Samples:
    """N texts to each prompt. Raises UserError for an N below 1."""
    if N < 1:
        raise UserError(f"N={N} samples: ask for 1 at least")
    key = jax.random.key(0) if key is None else key
    found = model.generate(
        [prompt for prompt in prompts for _ in range(N)], sampler=Temperature(temperature), key=key, **how
    )
    texts = [list(found.texts[i * N : (i + 1) * N]) for i in range(len(prompts))]
    return Samples(texts, np.asarray(found.logprobs, np.float64).sum(1).reshape(-1, N))


class Best(NamedTuple):
    text: str
    texts: list[str]
    scores: np.ndarray


def best_of_n(model: Any, prompts: Sequence[str], N: int, score: Score, **how: Any) -> list[Best]:
    """The best of N samples by `score`, such as `RewardModel.score`; its KL from the model is at most `kl_bound(N)`."""
    drawn, found = samples(model, prompts, N, **how), []
    for prompt, texts in zip(prompts, drawn.texts):
        scores = np.asarray(score([prompt] * N, texts), np.float64)
        found.append(Best(texts[int(scores.argmax())], texts, scores))
    return found


def kl_bound(N: int) -> float:
    """log N - (N - 1) / N, in nats: no more can the best of N differ from the model (Beirami et al. 2024,
    arXiv:2401.01879)."""
    return math.log(N) - (N - 1) / N


def expected_best(scores_PM: Any, N: int, of: Any = None) -> float:
    """The mean over prompts of what the best of N by `scores` has of `of` (default: the score itself), unbiased from M
    samples of each: the mean over all subsets of N. Raises UserError where N > M.

        E = sum_i C(i - 1, N - 1) / C(M, N) x_(i),   x in ascending order of score
    """
    scores = np.asarray(scores_PM, np.float64)
    M = scores.shape[1]
    if not 1 <= N <= M:
        raise UserError(f"the best of N={N} cannot be estimated from {M} samples")
    chance = np.array([math.comb(i, N - 1) / math.comb(M, N) for i in range(M)])
    told = np.take_along_axis(scores if of is None else np.asarray(of, np.float64), scores.argsort(1), 1)
    return float((told * chance).sum(1).mean())


def rejection_sample(
    model: Any,
    rows: Sequence[Mapping[str, Any]],
    N: int,
    reward: Callable[[str, str, Mapping[str, Any]], float | None],
    path: str | Path,
    least: float = 1.0,
    each: int = 1,
    **how: Any,
) -> int:
    """Writes for each row the `each` best different samples whose reward is `least` or more as {"prompt", "completion"}
    lines, which `data.Conversations` reads; returns how many there are (STaR; Zelikman et al. 2022, arXiv:2203.14465;
    RAFT; Dong et al. 2023, arXiv:2304.06767)."""
    prompts, lines = [str(row["prompt"]) for row in rows], []
    for prompt, row, texts in zip(prompts, rows, samples(model, prompts, N, **how).texts):
        rated = sorted(((reward(prompt, text, row) or 0.0, text) for text in dict.fromkeys(texts)), key=lambda x: -x[0])
        lines += [{"prompt": prompt, "completion": text} for value, text in rated[:each] if value >= least]
    write_file(expand(path), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode())
    return len(lines)


class Vote(NamedTuple):
    answer: str
    share: float  # of the samples that have an answer
    counts: dict[str, int]


def vote(answers: Sequence[str], logprobs: Sequence[float]) -> Vote:
    """The commonest answer but "", of equally common ones that of the highest summed probability."""
    counts: dict[str, int] = defaultdict(int)
    weight: dict[str, float] = defaultdict(float)
    for answer, logprob in zip(answers, logprobs, strict=True):
        if answer:
            counts[answer] += 1
            weight[answer] += math.exp(logprob)
    if not counts:
        return Vote("", 0.0, {})
    best = max(counts, key=lambda answer: (counts[answer], weight[answer]))
    return Vote(best, counts[best] / sum(counts.values()), dict(counts))


def normalised(text: str) -> str:
    """The answer of a text in one spelling: lower case, no commas in numbers, no full stop at its end."""
    answer = " ".join(answer_of(text).lower().split()).rstrip(".")
    return answer.replace(",", "") if answer.replace(",", "").lstrip("-$").replace(".", "", 1).isdigit() else answer


def self_consistency(
    model: Any, prompts: Sequence[str], N: int, normalise: Callable[[str], str] = normalised, **how: Any
) -> list[Vote]:
    """The majority of the answers of N samples to each prompt (Wang et al. 2022, arXiv:2203.11171)."""
    drawn = samples(model, prompts, N, **how)
    return [vote([normalise(text) for text in texts], own) for texts, own in zip(drawn.texts, drawn.logprobs.tolist())]
