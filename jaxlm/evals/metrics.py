"""Scores of answers: exact match, F1 of words, errors of words and characters, pass@k, calibration, BLEU and chrF."""

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxlm import arguments
from jaxlm.errors import UserError

ARTICLES = {"en": r"\b(a|an|the)\b", "es": r"\b(el|la|los|las|lo|un|una|unos|unas)\b"}


def same_length(found: Sequence[Any], wanted: Sequence[Any], what: str = "references") -> None:
    """Raises UserError where there is not one for each, or none at all."""
    if len(found) != len(wanted):
        raise UserError(f"{len(found)} answers, but {len(wanted)} {what}: give one for each")
    if not len(found):
        raise UserError("there is nothing to score: no answers were given")


def accuracy(found: Sequence[Hashable], wanted: Sequence[Hashable]) -> float:
    """The share of answers equal to what is wanted."""
    same_length(found, wanted)
    return sum(a == b for a, b in zip(found, wanted)) / len(found)


def f1(found: Sequence[Hashable], wanted: Sequence[Hashable], average: str = "macro") -> float:
    """F1 = 2 P R / (P + R) of labels: the mean over labels ("macro") or over all answers ("micro", the accuracy)."""
    same_length(found, wanted)
    if average not in ("macro", "micro"):
        raise UserError(f'average must be "macro" or "micro", not {average!r}')
    if average == "micro":
        return accuracy(found, wanted)
    said, true, both = Counter(found), Counter(wanted), Counter(a for a, b in zip(found, wanted) if a == b)
    return float(np.mean([2 * both[label] / (said[label] + true[label]) for label in said | true]))


def normal_answer(text: str, language: str = "en") -> str:
    """Small letters, no punctuation, no articles, single spaces: SQuAD's (Rajpurkar et al. 2016)."""
    if language not in ARTICLES:
        raise UserError(f"articles are known of {', '.join(ARTICLES)}, not of {language!r}")
    kept = "".join(c for c in unicodedata.normalize("NFC", text).lower() if c not in string.punctuation + "¿¡«»")
    return " ".join(re.sub(ARTICLES[language], " ", kept).split())


def exact_match(found: str, wanted: str | Sequence[str], language: str = "en") -> float:
    """1 where the normalised answer is one of those wanted."""
    wanted = [wanted] if isinstance(wanted, str) else wanted
    return float(normal_answer(found, language) in {normal_answer(one, language) for one in wanted})


def word_f1(found: str, wanted: str | Sequence[str], language: str = "en") -> float:
    """F1 of the bags of normalised words, of the best of those wanted; 1 where both are empty."""

    def one(answer: str) -> float:
        a, b = normal_answer(found, language).split(), normal_answer(answer, language).split()
        both = sum((Counter(a) & Counter(b)).values())
        return 2 * both / (len(a) + len(b)) if a or b else 1.0

    return max(map(one, [wanted] if isinstance(wanted, str) else wanted))


def edits(found: Sequence[Hashable], wanted: Sequence[Hashable]) -> int:
    """The Levenshtein distance: fewest substitutions, deletions and insertions from one to the other.

    d_ij = min(d_i-1,j + 1, d_i,j-1 + 1, d_i-1,j-1 + [a_i != b_j]), row by row.
    """
    ids: dict[Hashable, int] = {}
    a, b = (np.array([ids.setdefault(x, len(ids)) for x in side], np.int64) for side in (found, wanted))
    steps = np.arange(len(b) + 1)
    row = steps.copy()
    for i, x in enumerate(a):
        best = np.concatenate([[i + 1], np.minimum(row[1:] + 1, row[:-1] + (b != x))])
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])


def error_rate(found: Sequence[str], wanted: Sequence[str], unit: str = "words") -> float:
    """Edits over the length of the references, summed over texts: WER of "words" between spaces, CER of "characters".

    Texts are compared as they are: normalise them first. Raises UserError where no reference has anything in it.
    """
    same_length(found, wanted)
    if unit not in ("words", "characters"):
        raise UserError(f'unit must be "words" or "characters", not {unit!r}')
    cut = str.split if unit == "words" else lambda text: list(text.strip())
    total = sum(len(cut(text)) for text in wanted)
    if total == 0:
        raise UserError(f"the references have no {unit}: an error rate has nothing to be divided by")
    return sum(edits(cut(a), cut(b)) for a, b in zip(found, wanted)) / total


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The chance that one of k of the samples is correct, without bias (Chen et al. 2021, arXiv:2107.03374).

    1 - C(n - c, k) / C(n, k) = 1 - prod_{i = n - c + 1 .. n} (1 - k / i)
    """
    k, correct = arguments.integer(k, "k", 1, samples), arguments.integer(correct, "correct", 0, samples)
    if samples - correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - correct + 1, samples + 1))


def _calibrated(probabilities: ArrayLike, correct: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p, y = np.asarray(probabilities, np.float64), np.asarray(correct, np.float64)
    if p.ndim != 1 or p.shape != y.shape or not len(p):
        raise UserError(f"probabilities and outcomes must be equally long rows, got {p.shape} and {y.shape}")
    if not ((p >= 0) & (p <= 1)).all() or not np.isin(y, (0, 1)).all():
        raise UserError("probabilities must lie in 0 .. 1 and outcomes be 0 or 1")
    return p, y


def expected_calibration_error(probabilities: ArrayLike, correct: ArrayLike, bins: int = 15) -> float:
    """ECE = sum_b n_b / n |accuracy_b - confidence_b| over bins of equal width (Guo et al. 2017, arXiv:1706.04599)."""
    p, y = _calibrated(probabilities, correct)
    at = np.clip(np.ceil(p * arguments.integer(bins, "bins", 1)).astype(int) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(at, p - y, bins)).sum() / len(p))


def brier(probabilities: ArrayLike, correct: ArrayLike) -> float:
    """The mean of (p - y)^2 (Brier 1950)."""
    p, y = _calibrated(probabilities, correct)
    return float(((p - y) ** 2).mean())


def translation(found: Sequence[str], wanted: Sequence[str] | Sequence[Sequence[str]]) -> dict[str, Any]:
    """BLEU and chrF of a corpus by sacrebleu, detokenised, and sacrebleu's signature of the BLEU; `wanted` has a text,
    or several, for each. Raises UserError without the extra `bleu`."""
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise UserError("BLEU and chrF are computed by sacrebleu: pip install jaxlm[bleu]") from None
    same_length(found, wanted)
    several = [[one] if isinstance(one, str) else list(one) for one in wanted]
    if len({len(one) for one in several}) != 1:
        raise UserError("every text needs equally many references")
    references = [list(column) for column in zip(*several)]
    bleu, chrf = BLEU(), CHRF()
    scores = {"bleu": bleu.corpus_score(list(found), references).score}
    return {**scores, "chrf": chrf.corpus_score(list(found), references).score, "signature": str(bleu.get_signature())}
