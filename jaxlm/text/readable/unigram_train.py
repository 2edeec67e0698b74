"""Learning the pieces of a unigram language model and their probabilities (Kudo 2018, arXiv:1804.10959, section 3.2).

    P(x) = p(x_1) p(x_2) ... p(x_n)  for a segmentation x,  P(word) = sum of P(x) over the segmentations x of the word

1. Take far too many pieces: the substrings of the words that come back.
2. Find the p that make the words likely. The segmentations are hidden, so by EM: count the pieces as often as they are
   expected in a segmentation (E), make p proportional to the counts (M).
3. Ask of every piece what the likelihood loses without it, and keep the better ones; single characters always stay.
4. Again from 2, until the size is right.

So far the paper. The SentencePiece library makes it definite, and so does this file: two steps of EM before each
pruning, which keeps three quarters; pieces expected less than half a time are dropped at once; the loss is estimated by
putting each piece's best segmentation without itself in its place; the last tenth is cut by probability. Step 2 has

    p(x) = exp(digamma(c_x) - digamma(sum of c))    instead of    c_x / sum of c,

the variational Bayes estimate under a sparse prior (Liang and Klein 2007), which counts about c - 1/2 and so starves
rare pieces. Of its own this file never drops below the size asked for, and ends with one step of the paper's EM, so
that the final probabilities sum to one.

Words are not walked one by one. Their lattices lie side by side in flat arrays, and all are passed together, place by
place: `lattice.Lattice` is the same thing for one word, to read first.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxlm.text.readable.unigram_story import Round

SHRINK = 0.75  # of the pieces survive a round of pruning
OVER = 1.1  # times the final size: where pruning by loss ends
SUB_ROUNDS = 2  # EM steps before each pruning
LEAST = 0.5  # a piece that is expected less often is dropped
SEEDS = 1_000_000  # pieces to begin with, at most


@dataclass(frozen=True)
class Seeds:
    """The first, far too large vocabulary, and the arcs that it makes in the words.

    The words lie in one row, each followed by one place for its end.

    Attributes:
        pieces: spellings, single characters first.
        counts: how often each occurs.
        start, length, piece: the arcs: where in the row, how many characters, which piece.
    """

    pieces: list[str]
    counts: np.ndarray
    start: np.ndarray
    length: np.ndarray
    piece: np.ndarray


@dataclass(frozen=True)
class Grams:
    """The substrings of one length: `gram[i]` is the number of the one at the place `at[i]` of the row.

    `count` says how often each occurs, `wanted` whether it is worth a piece.
    """

    at: np.ndarray
    gram: np.ndarray
    count: np.ndarray
    wanted: np.ndarray


def find_seeds(words: Sequence[str], counts: Sequence[int], longest: int, most: int = SEEDS) -> Seeds:
    """All characters, and the substrings of 2 to `longest` characters that occur twice or more.

    One that always has the same character after it says nothing that the longer one does not, and is left out. The
    `most` with the largest count times length are kept, of equals the shorter ones.
    """
    row = "".join(word + "\0" for word in words)
    levels = _grow(row, words, counts, longest)
    count = np.concatenate([level.count for level in levels])
    wanted = np.concatenate([level.wanted for level in levels])
    size = np.repeat(np.arange(1, len(levels) + 1), [len(level.count) for level in levels])
    characters = len(levels[0].count)
    order = characters + np.flatnonzero(wanted[characters:])
    order = order[np.argsort(-(count * size)[order], kind="stable")][:most]
    order = np.concatenate([np.arange(characters), order])
    seed = np.full(len(count), -1)  # of each substring
    seed[order] = np.arange(len(order))

    arcs, offset = [], 0
    for length, level in enumerate(levels, 1):
        piece = seed[offset + level.gram]
        kept = piece >= 0
        arcs.append((level.at[kept], np.full(kept.sum(), length), piece[kept]))
        offset += len(level.count)
    start, length, piece = (np.concatenate(parts).astype(np.int32) for parts in zip(*arcs))
    _, first = np.unique(piece, return_index=True)
    pieces = [row[at : at + n] for at, n in zip(start[first].tolist(), length[first].tolist())]
    return Seeds(pieces, count[order], start, length, piece)


def _grow(row: str, words: Sequence[str], counts: Sequence[int], longest: int) -> list[Grams]:
    """Substrings grow by one character at a time, at all places together, from where the shorter ones came back."""
    lengths = np.array([len(word) + 1 for word in words])
    code = np.frombuffer(row.encode("utf-32-le"), np.uint32).astype(np.int64)
    code[np.cumsum(lengths) - 1] = -1
    weight = np.repeat(np.array(counts, float), lengths)
    at = np.flatnonzero(code >= 0)
    alphabet, gram = np.unique(code[at], return_inverse=True)
    letter = np.full(len(code), -1)
    letter[at] = gram
    at, gram = at.astype(np.int32), gram.astype(np.int32)
    levels = [Grams(at, gram, count := np.bincount(gram, weight[at]), np.ones(len(alphabet), bool))]
    for length in range(2, longest + 1):
        more = (count[gram] >= 2) & (letter[at + length - 1] >= 0)  # it came back, and its word goes on
        if not more.any():
            break
        at, shorter = at[more], count
        key, gram = np.unique(gram[more].astype(int) * len(alphabet) + letter[at + length - 1], return_inverse=True)
        gram = gram.astype(np.int32)
        count = np.bincount(gram, weight[at])
        if length > 2:
            followed = np.zeros(len(shorter))  # by one and the same character
            np.maximum.at(followed, key // len(alphabet), count)
            levels[-1].wanted[followed == shorter] = False
        levels.append(Grams(at, gram, count, count >= 2))
    return levels


class Lattices:
    """The lattices of many words, passed together. Nodes are numbered through, those of a word from left to right.

    Attributes:
        start, stop, piece: the arcs, by how far `stop` is from the beginning of its word, then by `stop`.
        depth: that distance, in characters.
        ends: the last node of each word.
        nodes: how many there are.
    """

    def __init__(
        self, start: np.ndarray, stop: np.ndarray, piece: np.ndarray, depth: np.ndarray, ends: np.ndarray
    ) -> None:
        order = np.lexsort((start, stop, depth))
        self.start, self.stop, self.piece, self.depth = start[order], stop[order], piece[order], depth[order]
        self.ends, self.nodes = ends, int(ends.max()) + 1

    def without(self, gone: np.ndarray) -> None:
        """Takes out the arcs of the pieces where `gone` is true."""
        kept = ~gone[self.piece]
        self.start, self.stop, self.piece, self.depth = (
            arcs[kept] for arcs in (self.start, self.stop, self.piece, self.depth)
        )

    def steps(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """From left to right: the arcs of one depth, where among them those of each node begin, and these nodes."""
        bounds = np.flatnonzero(np.diff(self.depth, prepend=-1, append=-1))
        for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist()):
            begins = np.flatnonzero(np.diff(self.stop[a:b], prepend=-1))
            yield slice(a, b), begins, self.stop[a:b][begins]

    def expected(self, score: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
        """The E step: (expected count of each piece, log-likelihood), over all words, each `weight` times.

        Forward to the end, backward with the probability of each arc: the equations of `Lattice`.
        """
        total = np.zeros(self.nodes)
        arc_score = score[self.piece]
        steps = list(self.steps())
        for arcs, begins, nodes in steps:
            total[nodes] = np.logaddexp.reduceat(total[self.start[arcs]] + arc_score[arcs], begins)
        chance = np.exp(total[self.start] + arc_score - total[self.stop])
        flow = np.zeros(self.nodes)
        flow[self.ends] = weight
        for arcs, _, _ in reversed(steps):
            chance[arcs] *= flow[self.stop[arcs]]
            np.add.at(flow, self.start[arcs], chance[arcs])
        return np.bincount(self.piece, chance, len(score)), float(weight @ total[self.ends])

    def viterbi(self, score: np.ndarray) -> tuple[np.ndarray, Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]]:
        """The best score of each word, and a walk back over the best paths: (words, their pieces), piece by piece."""
        best, last = np.zeros(self.nodes), np.full(self.nodes, -1)
        for arcs, begins, nodes in self.steps():
            sums = best[self.start[arcs]] + score[self.piece[arcs]]
            best[nodes] = np.maximum.reduceat(sums, begins)
            is_best = np.flatnonzero(sums == best[self.stop[arcs]])
            last[self.stop[arcs][is_best[::-1]]] = arcs.start + is_best[::-1]  # of equals the first, the longest piece

        def walk() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            word, arc = np.arange(len(self.ends)), last[self.ends]
            while len(arc):
                yield word, self.piece[arc]
                arc = last[self.start[arc]]
                word, arc = word[arc >= 0], arc[arc >= 0]

        return best[self.ends], walk


def corpus_lattices(words: Sequence[str], seeds: Seeds) -> Lattices:
    """The lattices of all words."""
    lengths = np.array([len(word) for word in words])
    ends = np.cumsum(lengths + 1) - 1
    begin = np.repeat(ends - lengths, lengths + 1)
    stop = seeds.start + seeds.length
    return Lattices(seeds.start, stop, seeds.piece, stop - begin[seeds.start], ends)


def piece_lattices(seeds: Seeds) -> Lattices:
    """The lattices of the pieces themselves: what each could be cut into, itself left out (but single characters stay).

    A piece is cut like the first place where it occurs in the words, so its arcs are copied from there.
    """
    order = np.lexsort((seeds.length, seeds.start))
    start, length, piece = seeds.start[order], seeds.length[order], seeds.piece[order]
    _, first = np.unique(piece, return_index=True)
    place, size = start[first], length[first]
    ends = np.cumsum(size + 1, dtype=np.int32) - 1
    low, high = np.searchsorted(start, place), np.searchsorted(start, place + size)
    owner = np.repeat(np.arange(len(first), dtype=np.int32), high - low)
    arc = np.arange(len(owner)) + (low - np.cumsum(high - low) + (high - low))[owner]
    inside = start[arc] + length[arc] <= (place + size)[owner]
    inside &= (piece[arc] != owner) | (size[owner] == 1)
    owner, arc = owner[inside], arc[inside]
    begin = (ends - size)[owner]
    stop = start[arc] + length[arc] - place[owner]
    return Lattices(begin + start[arc] - place[owner], begin + stop, piece[arc], stop, ends)


def learn(
    words: Sequence[str],
    counts: Sequence[int],
    room: int,
    longest: int,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> tuple[list[tuple[str, float]], list[Round], int]:
    """(`room` pieces with their log-probabilities, best first; what happened; for how many pieces there was material).

    All characters of `words` are among the pieces. There are fewer than `room` where the words do not give more.
    """
    seeds = find_seeds(words, counts, longest)
    weight = np.array(counts, float)
    single = np.array([len(piece) == 1 for piece in seeds.pieces])
    corpus, own = corpus_lattices(words, seeds), piece_lattices(seeds)
    alive = np.ones(len(seeds.pieces), bool)
    score = np.log(seeds.counts) - np.log(seeds.counts.sum())
    rounds: list[Round] = []

    def drop(gone: np.ndarray) -> None:
        alive[gone] = False
        corpus.without(~alive)
        own.without(~alive)

    while True:
        size, likelihood = int(alive.sum()), 0.0
        for _ in range(SUB_ROUNDS):
            expected, likelihood = corpus.expected(score, weight)
            drop(_least(expected, alive, single, room, LEAST))
            expected = np.maximum(expected, LEAST)
            score = np.where(alive, digamma(expected) - digamma(expected[alive].sum()), 0.0)
        rare, left = size - int(alive.sum()), int(alive.sum())
        if left <= OVER * room:
            rounds.append(Round(size, likelihood, rare, 0, ()))
            break
        loss = _losses(corpus, own, score, weight)
        target = int(max(OVER * room, min(SHRINK * left, ((loss > 0) & alive).sum())))
        gone = _worst(loss, alive, single, left - target)
        costly = gone[np.argsort(-loss[gone], kind="stable")][:10]
        rounds.append(
            Round(size, likelihood, rare, len(gone), tuple((seeds.pieces[i], float(loss[i])) for i in costly))
        )
        drop(gone)
        if progress:
            progress(len(rounds), None, "rounds of EM")

    drop(_worst(score, alive, single, max(0, int(alive.sum()) - room)))
    expected, likelihood = corpus.expected(score, weight)
    expected = np.maximum(expected, LEAST)
    score = np.log(expected) - np.log(expected[alive].sum())
    _, likelihood = corpus.expected(score, weight)
    rounds.append(Round(int(alive.sum()), likelihood, 0, 0, ()))
    order = np.flatnonzero(alive)
    order = order[np.argsort(-score[order], kind="stable")]
    return [(seeds.pieces[i], float(score[i])) for i in order], rounds, len(seeds.pieces)


def _least(expected: np.ndarray, alive: np.ndarray, single: np.ndarray, room: int, least: float) -> np.ndarray:
    """The pieces that are expected less often than `least`, but never so many that fewer than `room` are left."""
    rare = int((alive & ~single & (expected < least)).sum())
    return _worst(expected, alive, single, min(rare, max(0, int(alive.sum()) - room)))


def _worst(value: np.ndarray, alive: np.ndarray, single: np.ndarray, many: int) -> np.ndarray:
    """The `many` pieces of least value that may go; of equals the later seeds."""
    order = np.flatnonzero(alive & ~single)[::-1]
    return order[np.argsort(value[order], kind="stable")][:many]


def _losses(corpus: Lattices, own: Lattices, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """By how much the log-likelihood of the best segmentations falls without each piece, estimated:

    loss(x) = c_x (log p(x) - sum of log p(a) over the pieces a of the best segmentation of x without x),

    with c the counts in the best segmentations, and p the relative counts before and after x has been replaced.
    0 for a piece that no best segmentation uses, or that is better cut itself.
    """
    _, walk = corpus.viterbi(score)
    count = np.zeros(len(score))
    for word, piece in walk():
        count += np.bincount(piece, weight[word], len(score))
    best, walk = own.viterbi(score)
    after, many = np.zeros(len(score)), np.zeros(len(score))
    for piece, part in walk():
        after[piece] += np.log(np.maximum(count[part] + count[piece], 1e-300))
        many[piece] += 1
    total = count.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        after -= many * np.log(total + count * (many - 1))
        loss = count * (np.log(count) - np.log(total) - after)
    return np.where((count > 0) & (best <= score), np.maximum(loss, 0.0), 0.0)


def digamma(x: np.ndarray) -> np.ndarray:
    """The derivative of log gamma(x), x > 0, by its recurrence and its asymptotic series; to 1e-12."""
    x, out = np.array(x, float), 0.0
    for _ in range(10):  # digamma(x) = digamma(x + 1) - 1 / x
        out, x = out - 1 / x, x + 1
    square = 1 / (x * x)
    return out + np.log(x) - 0.5 / x - square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square / 240)))
