"""All the ways to cut a text into pieces of a vocabulary, as one graph: the best, the n best, a random one, their sum.

The nodes are the places between characters, and every piece that the text spells is an arc from its first place to
its last. A path from 0 to the end is a segmentation, its score the sum of its arcs' scores:

    "alto":  0 --a--> 1 --l--> 2 --t--> 3 --o--> 4,  0 --al--> 2,  0 --alto--> 4, ...

A unigram language model (Kudo 2018, arXiv:1804.10959) gives every piece a log-probability as its score. One pass from
left to right then answers any question, because the best (or the summed) way to a place needs only those to the places
before it.
"""

import heapq
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from jaxlm.errors import UserError

PENALTY = 10.0  # an unknown character scores this much less than the worst piece


class Arc(NamedTuple):
    """A piece in a text: where it starts and stops, its id and its score."""

    start: int
    stop: int
    id: int
    score: float


class Trie:
    """The pieces of a vocabulary as a tree of characters: those that begin at one place of a text lie on one branch.

    `pieces` are (spelling, id, score). A character that is no piece by itself gets the id `unk` and the score

        score of an unknown character = the lowest score of a piece - 10.
    """

    def __init__(self, pieces: Iterable[tuple[str, int, float]], unk: int | None) -> None:
        self.root: dict[str | None, Any] = {}
        lowest = math.inf
        for spelling, i, score in pieces:
            node = self.root
            for character in spelling:
                node = node.setdefault(character, {})
            node[None] = (i, score)
            lowest = min(lowest, score)
        self.unk = unk
        self.unk_score = lowest - PENALTY

    def arcs(self, text: str, start: int) -> list[Arc]:
        """The pieces that begin at `start`, shortest first; in as many steps as the longest of them has characters."""
        found: list[Arc] = []
        node, stop = self.root, start
        for stop in range(start + 1, len(text) + 1):
            node = node.get(text[stop - 1])
            if node is None:
                break
            if None in node:
                i, score = node[None]
                found.append(Arc(start, stop, i, score))
        if not found or found[0].stop > start + 1:
            if self.unk is None:
                raise UserError(f"no piece spells {text[start]!r}, and this tokenizer has no unknown token for it")
            found.insert(0, Arc(start, start + 1, self.unk, self.unk_score))
        return found

    def id(self, spelling: str) -> int | None:
        """The id of a piece; None where it is no piece of this tree."""
        node = self.root
        for character in spelling:
            if (node := node.get(character)) is None:
                return None
        return node[None][0] if None in node else None


def viterbi(text: str, trie: Trie) -> list[Arc]:
    """The best path through one word, in time and memory linear in its length: only the best arc to each place is kept.

        best(stop) = max over arcs (start, stop) of best(start) + score

    Of equal sums the first wins, which is the one whose last piece is longest: what the `tokenizers` library does.
    """
    best = [0.0] + [-math.inf] * len(text)
    last: list[Arc | None] = [None] * (len(text) + 1)
    for start in range(len(text)):
        before = best[start]
        for arc in trie.arcs(text, start):
            total = before + arc.score
            if total > best[arc.stop]:
                best[arc.stop], last[arc.stop] = total, arc
    path, at = [], len(text)
    while at:
        arc = last[at]
        assert arc is not None  # every character begins an arc of one character
        path.append(arc)
        at = arc.start
    return path[::-1]


class Lattice:
    """Every segmentation of a text, given as its words, into the pieces of `trie`; pieces do not cross words."""

    def __init__(self, words: Sequence[str], trie: Trie) -> None:
        self.text = "".join(words)
        self._words, self._trie = words, trie
        self.ending: list[list[Arc]] = [[] for _ in range(len(self.text) + 1)]  # the arcs to each place, longest first
        offset = 0
        for word in words:
            for start in range(len(word)):
                for _, stop, i, score in trie.arcs(word, start):
                    self.ending[offset + stop].append(Arc(offset + start, offset + stop, i, score))
            offset += len(word)

    @property
    def arcs(self) -> list[Arc]:
        """All arcs, by where they start, then by where they stop."""
        return sorted(arc for ending in self.ending for arc in ending)

    @cached_property
    def _best(self) -> list[float]:
        """The score of the best path to each place."""
        best = [0.0]
        for arcs in self.ending[1:]:
            best.append(max(best[arc.start] + arc.score for arc in arcs))
        return best

    def viterbi(self) -> list[Arc]:
        """The best path, word by word as the function `viterbi` finds it."""
        path: list[Arc] = []
        for word in self._words:
            offset = path[-1].stop if path else 0
            path += [Arc(offset + arc.start, offset + arc.stop, arc.id, arc.score) for arc in viterbi(word, self._trie)]
        return path

    def nbest(self, n: int) -> list[list[Arc]]:
        """The n best paths exactly, best first; fewer where there are fewer. Paths of equal score come in any order.

        A* search from the end: a partial path is worth its own score plus the best score of any way to its beginning,
        which is known, so that paths come out of the queue in order (Nagata 1994).
        """
        best = self._best
        order = 0  # breaks ties, since paths cannot be compared
        queue: list[tuple[float, int, int, float, Any]] = [(-best[-1], 0, len(self.text), 0.0, None)]
        found: list[list[Arc]] = []
        while queue and len(found) < n:
            _, _, at, score, path = heapq.heappop(queue)
            if at == 0:
                found.append(_unrolled(path))
                continue
            for arc in self.ending[at]:
                order += 1
                after = arc.score + score
                heapq.heappush(queue, (-(best[arc.start] + after), order, arc.start, after, (arc, path)))
        return found

    def forward(self, alpha: float = 1.0) -> list[float]:
        """The log of the summed probability of all ways to each place, every probability to the power of `alpha`:

        a(stop) = log sum over arcs (start, stop) of exp(a(start) + alpha score).
        """
        total = [0.0]
        for arcs in self.ending[1:]:
            total.append(_logsumexp([total[arc.start] + alpha * arc.score for arc in arcs]))
        return total

    def log_marginal(self) -> float:
        """log P(text), summed over all segmentations."""
        return self.forward()[-1]

    def posterior(self) -> dict[Arc, float]:
        """The probability that a segmentation of this text takes an arc, for each arc.

        Backward: a path that comes through a place has come to it by the arc (start, stop) with probability

            P(arc | stop) = exp(a(start) + score - a(stop)),

        so the probability of the end, 1, flows back through the graph.
        """
        total = self.forward()
        flow = [0.0] * len(self.text) + [1.0]
        share: dict[Arc, float] = {}
        for stop in range(len(self.text), 0, -1):
            for arc in self.ending[stop]:
                share[arc] = flow[stop] * math.exp(total[arc.start] + arc.score - total[stop])
                flow[arc.start] += share[arc]
        return share

    def expected(self) -> dict[int, float]:
        """How often each id is expected in a segmentation of this text: the E step of EM."""
        counts: dict[int, float] = {}
        for arc, share in self.posterior().items():
            counts[arc.id] = counts.get(arc.id, 0.0) + share
        return counts

    def sample(self, rng: np.random.Generator, alpha: float = 1.0) -> list[Arc]:
        """A random path, drawn with probability proportional to exp(alpha score): forward filtering, backward sampling.

        `alpha` 0 draws all segmentations alike, 1 as likely as the model finds them; large ones draw the best.
        """
        total = self.forward(alpha)
        path, at = [], len(self.text)
        while at:
            arcs = self.ending[at]
            chances = [math.exp(total[arc.start] + alpha * arc.score - total[at]) for arc in arcs]
            path.append(arcs[draw(rng, chances)])
            at = path[-1].start
        return path[::-1]


def draw(rng: np.random.Generator, chances: Sequence[float]) -> int:
    """An index drawn with probability proportional to `chances`."""
    left = rng.random() * sum(chances)
    for index, chance in enumerate(chances):
        left -= chance
        if left < 0:
            return index
    return max(range(len(chances)), key=chances.__getitem__)  # rounding left a little over


def _logsumexp(values: list[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def _unrolled(path: Any) -> list[Arc]:
    arcs = []
    while path is not None:
        arc, path = path
        arcs.append(arc)
    return arcs
