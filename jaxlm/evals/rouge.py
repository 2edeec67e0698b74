"""ROUGE, how much of a reference's wording a summary has (Lin 2004): n-grams and longest common subsequences.

Recall is by the reference's length, precision by the summary's, F1 = 2 P R / (P + R). ROUGE-L takes a text as one
sequence; ROUGE-Lsum cuts both at line feeds and joins, for each sentence of the reference, its common subsequences with
all sentences of the summary. No stemming.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from jaxlm.errors import UserError
from jaxlm.evals.metrics import same_length

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
Tokenize = Callable[[str], list[str]]
Score = tuple[float, float, float]  # precision, recall, F1


def words(text: str) -> list[str]:
    """Small words of letters and digits of any script: "El niño" has two."""
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFC", text).lower())


def ascii_words(text: str) -> list[str]:
    """The published scorer's: a-z and 0-9 alone, so that "niño" is two words, "ni" and "o"."""
    return re.findall(r"[a-z0-9]+", text.lower())


def rouge(found: str, wanted: str, kinds: Sequence[str] = KINDS, tokenize: Tokenize = words) -> dict[str, Score]:
    """(precision, recall, F1) of each kind: "rouge1" (any n), "rougeL", "rougeLsum"."""
    a, b = tokenize(found), tokenize(wanted)
    return {kind: _score(kind, found, wanted, a, b, tokenize) for kind in kinds}


def rouge_mean(
    found: Sequence[str], wanted: Sequence[str], kinds: Sequence[str] = KINDS, tokenize: Tokenize = words
) -> dict[str, float]:
    """The mean F1 of each kind over texts."""
    same_length(found, wanted)
    scores = [rouge(a, b, kinds, tokenize) for a, b in zip(found, wanted)]
    return {kind: float(np.mean([score[kind][2] for score in scores])) for kind in kinds}


def _score(kind: str, found: str, wanted: str, a: list[str], b: list[str], tokenize: Tokenize) -> Score:
    if kind == "rougeL":
        return _rates(len(common(b, a)), len(a), len(b))
    if kind == "rougeLsum":
        sides = [[tokenize(line) for line in text.split("\n") if line] for text in (found, wanted)]
        return _rates(_union(*sides), *(sum(map(len, side)) for side in sides))
    n = re.fullmatch(r"rouge([1-9])", kind)
    if n is None:
        raise UserError(f"{kind!r} is no kind of ROUGE: take rouge1 .. rouge9, rougeL or rougeLsum")
    grams = [Counter(zip(*(side[i:] for i in range(int(n[1]))))) for side in (a, b)]
    return _rates(sum((grams[0] & grams[1]).values()), *(sum(side.values()) for side in grams))


def _rates(hits: int, found: int, wanted: int) -> Score:
    if not hits:
        return 0.0, 0.0, 0.0
    precision, recall = hits / found, hits / wanted
    return precision, recall, 2 * precision * recall / (precision + recall)


def common(reference: Sequence[str], text: Sequence[str]) -> list[int]:
    """The positions in the reference of a longest common subsequence; of several the one that backtracking from the end
    finds when it leaves the text's last word only where that alone loses nothing, as the published scorer does."""
    ids: dict[str, int] = {}
    a, b = (np.array([ids.setdefault(x, len(ids)) for x in side], np.int64) for side in (reference, text))
    length = np.zeros((len(a) + 1, len(b) + 1), np.int64)
    for i, x in enumerate(a):
        best = np.maximum(length[i, 1:], length[i, :-1] + (b == x))
        length[i + 1, 1:] = np.maximum.accumulate(best)
    found, i, j = [], len(a), len(b)
    while i and j:
        if a[i - 1] == b[j - 1]:
            i, j = i - 1, j - 1
            found.append(i)
        elif length[i, j - 1] > length[i - 1, j]:
            j -= 1
        else:
            i -= 1
    return found[::-1]


def _union(found: list[list[str]], wanted: list[list[str]]) -> int:
    """Words of the reference's sentences in a common subsequence with any of the summary's, each counted as often as
    both texts have it at most."""
    left = Counter(word for line in found for word in line) & Counter(word for line in wanted for word in line)
    hits = 0
    for line in wanted:
        for at in sorted(set().union(*(common(line, other) for other in found))):
            if left[line[at]]:
                left[line[at]] -= 1
                hits += 1
    return hits
