"""How a WordPiece vocabulary is learned (Schuster and Nakajima 2012, "Japanese and Korean voice search").

Words begin as characters, those inside a word marked by "##": gato -> g ##a ##t ##o. Then, until the vocabulary is
full, the two neighbouring tokens a, b with the best score become one token everywhere. With count(.) over the text as
it is cut at that moment, of N tokens:

    ratio:       count(ab) / (count(a) count(b))              pairs whose parts are seldom apart
    likelihood:  count(ab) log(N count(ab) / (count(a) count(b)))
    frequency:   count(ab)                                    as BPE does, and the trainer of `tokenizers`

The second is what the paper asks for, the merge that makes the text most likely: where tokens are independent, p(a) =
count(a) / N, every joined pair has probability p(ab) instead of p(a) p(b). The ratio is that gain for one occurrence;
it does not ask how many there are, so rare pairs come first.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxlm.errors import UserError
from jaxlm.text.counts import Progress

INSIDE = "##"  # begins the spelling of a token that continues a word
SCORES = ("likelihood", "ratio", "frequency")


@dataclass(frozen=True)
class Merge:
    """One step of training: `left` and `right`, neighbours `count` times, had the best `score` and became `token`."""

    left: str
    right: str
    token: str
    count: int
    score: float


def characters(words: Mapping[str, int], most: int) -> list[str]:
    """The `most` frequent characters of the words, of equals the first by code point; in the order of code points."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    return sorted(sorted(counts, key=lambda character: (-counts[character], character))[:most])


def learn(
    words: Mapping[str, int],
    V: int,
    specials: Sequence[str],
    alphabet: int,
    score: str,
    least: int,
    progress: Progress | None = None,
) -> tuple[list[str], list[Merge]]:
    """The tokens in the order of their ids, and the merges that made them; see `WordPieceTokenizer.train`."""
    letters = characters(words, alphabet)
    known = set(letters)
    words = {word: count for word, count in words.items() if known.issuperset(word)}  # the others will be unknown
    tokens = [*specials, *letters, *sorted({INSIDE + letter for word in words for letter in word[1:]})]
    if len(tokens) > V:
        raise UserError(
            f"V={V} has no room for the {len(specials)} special tokens and {len(letters)} characters: "
            f"use at least {len(tokens)}, or a smaller alphabet"
        )
    corpus = _Corpus(words, tokens, score, least)
    merges: list[Merge] = []
    while len(corpus.tokens) < V:
        merge = corpus.merge_best()
        if merge is None:
            raise UserError(f"V={V} is more than this text supports: use at most {len(corpus.tokens)}, or more text")
        merges.append(merge)
        if progress and len(merges) % 100 == 0:
            progress(len(corpus.tokens), V, "tokens")
    return corpus.tokens, merges


class _Corpus:
    """The words as they are cut now, with the counts of tokens and of pairs of neighbours.

    Each pair ever seen has a row; the best row is found in one sweep over all of them. A merge changes the counts of
    two tokens, so only the rows that name them, or that lie in a word where it happened, are scored again.
    """

    def __init__(self, words: Mapping[str, int], tokens: list[str], score: str, least: int) -> None:
        self.tokens, self.score, self.least = tokens, score, least
        self.ids = {token: i for i, token in enumerate(tokens)}
        self.cut = [[self.ids[w[0]], *(self.ids[INSIDE + letter] for letter in w[1:])] for w in words]
        self.times = list(words.values())
        self.uses = [0] * len(tokens)  # count of each token
        self.rows: dict[tuple[int, int], int] = {}
        self.pairs: list[tuple[int, int]] = []
        self.count: list[int] = []
        self.holding: list[set[int]] = []  # the words in which a row's pair was ever seen
        self.naming: list[list[int]] = [[] for _ in tokens]  # the rows whose pair has this token
        # A row's score is base + slope log N: N changes with every merge, the two only with the row's counts.
        self.base, self.slope = np.zeros(1024), np.zeros(1024)
        for word, ids in enumerate(self.cut):
            self._add(word, ids, self.times[word])
        self._rescore(range(len(self.pairs)))

    def merge_best(self) -> Merge | None:
        """Joins the pair of the best score, of equals the one met first; None when no score is above zero."""
        scores = self.base + self.slope * np.log(max(sum(self.uses), 1))
        best = int(np.argmax(scores))
        if not scores[best] > 0:
            return None
        left, right = self.pairs[best]
        token = self.tokens[left] + self.tokens[right].removeprefix(INSIDE)
        merge = Merge(self.tokens[left], self.tokens[right], token, self.count[best], float(scores[best]))
        new = self._token(token)
        changed = {*self.naming[left], *self.naming[right], *self.naming[new]}
        for word in sorted(self.holding[best]):
            ids = _merged(self.cut[word], left, right, new)
            if len(ids) < len(self.cut[word]):
                changed |= self._add(word, self.cut[word], -self.times[word])
                changed |= self._add(word, ids, self.times[word])
                self.cut[word] = ids
        self._rescore(changed)
        return merge

    def _token(self, token: str) -> int:
        """The token's id, which it may have from a merge of other parts."""
        if token not in self.ids:
            self.ids[token] = len(self.tokens)
            self.tokens.append(token)
            self.uses.append(0)
            self.naming.append([])
        return self.ids[token]

    def _add(self, word: int, ids: list[int], times: int) -> set[int]:
        """Counts the tokens and pairs of a word `times` times more; the rows of its pairs."""
        for i in ids:
            self.uses[i] += times
        rows = [self.rows[pair] if pair in self.rows else self._row(pair) for pair in zip(ids, ids[1:])]
        for row in rows:
            self.count[row] += times
            self.holding[row].add(word)
        return set(rows)

    def _row(self, pair: tuple[int, int]) -> int:
        self.rows[pair] = row = len(self.pairs)
        self.pairs.append(pair)
        self.count.append(0)
        self.holding.append(set())
        for i in set(pair):
            self.naming[i].append(row)
        if row == len(self.base):
            self.base, self.slope = (np.append(column, np.zeros(row)) for column in (self.base, self.slope))
        return row

    def _rescore(self, rows: Iterable[int]) -> None:
        for row in rows:
            count = self.count[row]
            if count < self.least or not count:
                self.base[row] = self.slope[row] = 0.0
                continue
            left, right = self.pairs[row]
            ratio = count / (self.uses[left] * self.uses[right])
            self.base[row], self.slope[row] = {
                "likelihood": (count * np.log(ratio), count),
                "ratio": (ratio, 0),
                "frequency": (count, 0),
            }[self.score]


def _merged(ids: list[int], left: int, right: int, new: int) -> list[int]:
    """The tokens of a word with each neighbouring `left`, `right` made one, from the left."""
    out: list[int] = []
    at = 0
    while at < len(ids):
        if ids[at] == left and ids[at + 1 : at + 2] == [right]:
            out.append(new)
            at += 2
        else:
            out.append(ids[at])
            at += 1
    return out
