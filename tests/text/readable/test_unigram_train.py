import math
import random
from collections import Counter

import numpy as np
import pytest

from jaxlm.text.readable.lattice import Lattice, Trie
from jaxlm.text.readable.unigram_train import (
    LEAST,
    OVER,
    SHRINK,
    SUB_ROUNDS,
    _losses,
    _worst,
    corpus_lattices,
    digamma,
    find_seeds,
    learn,
    piece_lattices,
)

LONGEST = 5


@pytest.fixture(scope="module")
def words() -> dict[str, int]:
    chance = random.Random(1)
    stems, ends = ["alt", "baj", "gat", "come", "pesc", "\0x"], ["o", "ito", "ísimo", "a", "ado", "mente", "s"]
    found = Counter(" " * chance.randint(0, 1) + chance.choice(stems) + chance.choice(ends) for _ in range(400))
    return dict(found)


def slow_seeds(words: dict[str, int], longest: int) -> dict[str, int]:
    """Every substring with its count; those that come back and are not always followed by the same character."""
    count: Counter[str] = Counter()
    for word, n in words.items():
        for start in range(len(word)):
            for stop in range(start + 1, min(start + longest, len(word)) + 1):
                count[word[start:stop]] += n
    letters = {piece for piece in count if len(piece) == 1}

    def always_followed(piece: str) -> bool:
        return len(piece) < longest and any(count[piece + letter] == count[piece] for letter in letters)

    return {p: n for p, n in count.items() if len(p) == 1 or (n >= 2 and not always_followed(p))}


def slow_trie(score: dict[str, float]) -> Trie:
    return Trie([(piece, i, s) for i, (piece, s) in enumerate(score.items())], None)


def test_seeds_are_the_substrings_that_come_back(words: dict[str, int]) -> None:
    seeds = find_seeds([*words], [*words.values()], LONGEST)
    assert dict(zip(seeds.pieces, seeds.counts.tolist())) == slow_seeds(words, LONGEST)
    value = [len(p) * n for p, n in zip(seeds.pieces, seeds.counts) if len(p) > 1]
    assert value == sorted(value, reverse=True)
    fewer = find_seeds([*words], [*words.values()], LONGEST, most=7)
    singles = sum(len(piece) == 1 for piece in seeds.pieces)
    assert fewer.pieces == seeds.pieces[: singles + 7] and fewer.piece.max() == singles + 6


def test_all_words_together_are_the_words_one_by_one(words: dict[str, int]) -> None:
    seeds = find_seeds([*words], [*words.values()], LONGEST)
    score = np.log(seeds.counts / seeds.counts.sum())
    trie = slow_trie(dict(zip(seeds.pieces, score.tolist())))
    expected, likelihood = np.zeros(len(score)), 0.0
    for word, n in words.items():
        lattice = Lattice([word], trie)
        likelihood += n * lattice.log_marginal()
        for i, count in lattice.expected().items():
            expected[i] += n * count
    corpus = corpus_lattices([*words], seeds)
    found, total = corpus.expected(score, np.array([*words.values()], float))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert total == pytest.approx(likelihood)

    best, walk = corpus.viterbi(score)
    paths: list[list[int]] = [[] for _ in words]
    for word, piece in walk():
        for w, p in zip(word.tolist(), piece.tolist()):
            paths[w].insert(0, p)
    for at, word in enumerate(words):
        assert paths[at] == [arc.id for arc in Lattice([word], trie).viterbi()]
        assert best[at] == pytest.approx(sum(score[i] for i in paths[at]))

    equal = np.array([-2.0 * len(piece) for piece in seeds.pieces])  # every segmentation is as good: the longest last
    trie = slow_trie(dict(zip(seeds.pieces, equal.tolist())))
    steps = [*corpus.viterbi(equal)[1]()]
    for at, word in enumerate(words):
        cut = [seeds.pieces[int(piece[words == at][0])] for words, piece in steps if at in words]
        assert cut[::-1] == [word[arc.start : arc.stop] for arc in Lattice([word], trie).viterbi()]


def slow_losses(words: dict[str, int], score: dict[str, float]) -> dict[str, float]:
    """What the likelihood loses without each piece, a piece at a time."""
    trie, pieces = slow_trie(score), [*score]
    count = dict.fromkeys(score, 0.0)
    for word, n in words.items():
        for arc in Lattice([word], trie).viterbi():
            count[pieces[arc.id]] += n
    total, loss = sum(count.values()), {}
    for piece, n in count.items():
        if len(piece) == 1:
            continue
        others = {other: s for other, s in score.items() if other != piece}
        cut = [[*others][arc.id] for arc in Lattice([piece], slow_trie(others)).viterbi()]
        if n == 0 or sum(score[part] for part in cut) > score[piece]:
            loss[piece] = 0.0
            continue
        after = sum(math.log((count[part] + n) / (total + n * (len(cut) - 1))) for part in cut)
        loss[piece] = max(0.0, n * (math.log(n / total) - after))
    return loss


def slow_learn(words: dict[str, int], room: int) -> tuple[dict[str, float], list[int]]:
    """The whole training with dictionaries and one lattice a word."""
    counts = slow_seeds(words, LONGEST)
    multi = sorted((p for p in counts if len(p) > 1), key=lambda p: (-len(p) * counts[p], len(p), p))
    pieces = sorted(p for p in counts if len(p) == 1) + multi
    score = {p: math.log(counts[p] / sum(counts.values())) for p in pieces}
    sizes = []

    def expect() -> dict[str, float]:
        names, trie = [*score], slow_trie(score)
        out = dict.fromkeys(score, 0.0)
        for word, n in words.items():
            for i, share in Lattice([word], trie).expected().items():
                out[names[i]] += n * share
        return out

    def keep(value: dict[str, float], size: int) -> None:
        order = {p: at for at, p in enumerate(pieces)}
        going = sorted((p for p in score if len(p) > 1), key=lambda p: (value[p], -order[p]))
        for piece in going[: max(0, len(score) - size)]:
            del score[piece]

    while True:
        sizes.append(len(score))
        for _ in range(SUB_ROUNDS):
            expected = expect()
            keep(expected, max(room, sum(len(p) == 1 or expected[p] >= LEAST for p in score)))
            expected = {p: max(expected[p], LEAST) for p in score}
            total = digamma(np.array(sum(expected.values())))
            score.update({p: float(digamma(np.array(n)) - total) for p, n in expected.items()})
        if len(score) <= OVER * room:
            break
        loss = slow_losses(words, score)
        keep(loss, int(max(OVER * room, min(SHRINK * len(score), sum(n > 0 for n in loss.values())))))
    keep(score, room)
    expected = {p: max(n, LEAST) for p, n in expect().items()}
    return {p: math.log(n / sum(expected.values())) for p, n in expected.items()}, [*sizes, len(score)]


@pytest.mark.parametrize("room", [30, 45, 80])
def test_training_is_the_slow_training(words: dict[str, int], room: int) -> None:
    expected, sizes = slow_learn(words, room)
    found, rounds, _ = learn([*words], [*words.values()], room, LONGEST)
    assert len(found) == room and [one.pieces for one in rounds] == sizes
    assert dict(found) == pytest.approx(expected)
    assert sum(math.exp(score) for _, score in found) == pytest.approx(1.0)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_losses_are_those_of_leaving_out_one_piece_at_a_time(words: dict[str, int]) -> None:
    seeds = find_seeds([*words], [*words.values()], LONGEST)
    score = np.log(seeds.counts / seeds.counts.sum())
    corpus, own = corpus_lattices([*words], seeds), piece_lattices(seeds)
    found = _losses(corpus, own, score, np.array([*words.values()], float))
    expected = slow_losses(words, dict(zip(seeds.pieces, score.tolist())))
    assert sum(n > 0 for n in expected.values()) > 10
    for piece, loss in zip(seeds.pieces, found.tolist()):
        if len(piece) > 1:
            assert loss == pytest.approx(expected[piece]), piece


def test_every_size_up_to_the_number_of_seeds_is_met(words: dict[str, int]) -> None:
    seeds = find_seeds([*words], [*words.values()], LONGEST)
    singles = sum(len(piece) == 1 for piece in seeds.pieces)
    for room in (singles, singles + 1, len(seeds.pieces) - 1, len(seeds.pieces), len(seeds.pieces) + 1):
        found, _, material = learn([*words], [*words.values()], room, LONGEST)
        assert len(found) == min(room, len(seeds.pieces)) and material == len(seeds.pieces)
        assert {piece for piece, _ in found} >= set(seeds.pieces[:singles])


def test_of_equal_pieces_the_later_seeds_go_first() -> None:
    alive, single = np.array([1, 1, 1, 0, 1, 1], bool), np.array([1, 0, 0, 0, 0, 0], bool)
    value = np.array([0.0, 2.0, 1.0, 0.0, 1.0, 1.0])
    assert [_worst(value, alive, single, many).tolist() for many in (2, 9)] == [[5, 4], [5, 4, 2, 1]]


def test_digamma_is_the_slope_of_log_gamma() -> None:
    x = np.array([0.5, 1.0, 3.7, 50.0, 12345.6])
    slope = [(math.lgamma(v * (1 + 1e-6)) - math.lgamma(v * (1 - 1e-6))) / (2e-6 * v) for v in x]
    np.testing.assert_allclose(digamma(x), slope, rtol=1e-6, atol=1e-8)
    assert digamma(np.array(1.0)) == pytest.approx(-0.5772156649015329, abs=1e-12)
