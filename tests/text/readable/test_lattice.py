import itertools
import json
import math
import random

import numpy as np
import pytest
from tokenizers import Tokenizer as Library

from jaxlm.errors import UserError
from jaxlm.text.formats import layout
from jaxlm.text.readable.lattice import PENALTY, Arc, Lattice, Trie, viterbi

PIECES = [("<unk>", 0, 0.0)]
PIECES += [("a", 1, -2.1), ("b", 2, -2.7), ("ab", 3, -3.2), ("ba", 4, -3.9), ("aba", 5, -5.5), ("bb", 6, -6.0)]
TEXTS = ["a", "abab", "abbaab", "bbbabab", "acab", "cc"]


@pytest.fixture(scope="module")
def trie() -> Trie:
    return Trie(PIECES, 0)


def every(text: str, start: int = 0) -> list[list[Arc]]:
    """All segmentations, by trying every piece at every place."""
    if start == len(text):
        return [[]]
    begin = [Arc(start, start + len(piece), i, score) for piece, i, score in PIECES if text.startswith(piece, start)]
    if text[start] not in "ab":
        begin.append(Arc(start, start + 1, 0, -6.0 - PENALTY))
    return [[arc, *rest] for arc in begin for rest in every(text, arc.stop)]


def value(path: list[Arc]) -> float:
    return sum(arc.score for arc in path)


@pytest.mark.parametrize("text", TEXTS)
def test_the_best_paths_are_those_of_all_paths_sorted(trie: Trie, text: str) -> None:
    paths = sorted(every(text), key=value, reverse=True)
    lattice = Lattice([text], trie)
    assert lattice.arcs == sorted({arc for path in paths for arc in path})
    assert lattice.viterbi() == viterbi(text, trie)
    assert value(viterbi(text, trie)) == pytest.approx(value(paths[0]))
    for n in (1, 2, 5, 10_000):
        found = lattice.nbest(n)
        assert [value(path) for path in found] == pytest.approx([value(path) for path in paths[:n]])
        assert len({tuple(path) for path in found}) == len(found) == min(n, len(paths))


@pytest.mark.parametrize("text", TEXTS)
def test_sums_over_all_paths(trie: Trie, text: str) -> None:
    paths = every(text)
    chances = np.exp([value(path) for path in paths])
    lattice = Lattice([text], trie)
    assert lattice.log_marginal() == pytest.approx(math.log(chances.sum()))
    posterior = lattice.posterior()
    for arc in lattice.arcs:
        share = sum(chance for path, chance in zip(paths, chances) if arc in path) / chances.sum()
        assert posterior[arc] == pytest.approx(share)
    for i, count in lattice.expected().items():
        expected = chances @ [sum(arc.id == i for arc in path) for path in paths] / chances.sum()
        assert count == pytest.approx(expected)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_samples_come_as_often_as_their_probability_to_the_power_of_alpha(trie: Trie, alpha: float) -> None:
    text, many = "abab", 4000
    paths = every(text)
    chances = np.exp([alpha * value(path) for path in paths])
    rng = np.random.default_rng(0)
    lattice = Lattice([text], trie)
    drawn = [lattice.sample(rng, alpha) for _ in range(many)]
    for path, chance in zip(paths, chances / chances.sum()):
        assert drawn.count(path) / many == pytest.approx(chance, abs=4 * math.sqrt(chance / many))
    assert lattice.sample(rng, 1000.0) == lattice.viterbi()


def test_words_are_cut_one_by_one(trie: Trie) -> None:
    together = Lattice(["ab", "bab"], trie)
    left, right = Lattice(["ab"], trie), Lattice(["bab"], trie)
    assert together.text == "abbab" and not any(arc.start < 2 < arc.stop for arc in together.arcs)
    assert together.log_marginal() == pytest.approx(left.log_marginal() + right.log_marginal())
    assert [arc.id for arc in together.viterbi()] == [arc.id for arc in left.viterbi() + right.viterbi()]
    every_pair = itertools.product(left.nbest(99), right.nbest(99))
    scores = sorted((value(a) + value(b) for a, b in every_pair), reverse=True)
    assert [value(path) for path in together.nbest(99)] == pytest.approx(scores)


def test_equal_sums_fall_as_in_the_library() -> None:
    chance = random.Random(0)
    spellings = ["".join(p) for n in (1, 2, 3, 4) for p in itertools.product("ab", repeat=n)]
    for _ in range(20):  # scores that are whole numbers: nearly every text has ties
        pieces = [("<unk>", 0.0)] + [(s, -float(chance.randint(1, 4))) for s in chance.sample(spellings, 12)]
        library = Library.from_str(json.dumps(layout.document(layout.unigram(pieces, 0, False), {})))
        trie = Trie([(piece, i, score) for i, (piece, score) in enumerate(pieces)], 0)
        for _ in range(40):
            text = "".join(chance.choices("aabbbc", k=chance.randint(1, 15)))
            cut = [text[arc.start : arc.stop] for arc in viterbi(text, trie) if arc.id]
            assert cut == [token for token, i in zip(*_encoded(library, text)) if i], (text, pieces)


def _encoded(library: Library, text: str) -> tuple[list[str], list[int]]:
    found = library.encode(text)
    return found.tokens, found.ids


def test_a_long_word_takes_as_many_steps_as_it_has_characters(trie: Trie) -> None:
    assert [arc.id for arc in viterbi("ab" * 20_000, trie)] == [3] * 20_000


def test_a_character_that_nothing_spells_is_named() -> None:
    with pytest.raises(UserError, match="no piece spells 'x', and this tokenizer has no unknown token"):
        viterbi("ax", Trie([("a", 0, -1.0)], None))


def test_no_text_has_one_empty_segmentation(trie: Trie) -> None:
    lattice = Lattice([], trie)
    assert lattice.nbest(3) == [[]] and lattice.viterbi() == [] and lattice.log_marginal() == 0.0
    assert lattice.sample(np.random.default_rng(0)) == [] and lattice.posterior() == {}
