import math
from collections import Counter

import pytest

from jaxlm.errors import UserError
from jaxlm.text import WordPieceTokenizer
from jaxlm.text.readable.wordpiece_train import Merge, characters, learn

SPANISH = "bajo bajito bajísimo alto altísimo alta altas el gato come pescado los gatos comen alto bajo bajo"
WORDS = Counter(SPANISH.split())


def slow(words: Counter[str], rounds: int, score: str, least: int) -> list[Merge]:
    """Everything counted again in every round."""
    cut = {word: [word[0], *(f"##{letter}" for letter in word[1:])] for word in words}
    merges, met = [], []
    while len(merges) < rounds:
        tokens, pairs = Counter(), Counter()
        for word, parts in cut.items():
            for token in parts:
                tokens[token] += words[word]
            for pair in zip(parts, parts[1:]):
                pairs[pair] += words[word]
        met += [pair for pair in pairs if pair not in met]
        N, best, chosen = tokens.total(), 0.0, None
        for a, b in met:
            n = pairs[a, b]
            if n >= max(least, 1):
                ratio = n / (tokens[a] * tokens[b])
                value = {"ratio": ratio, "frequency": n, "likelihood": n * (math.log(ratio) + math.log(N))}[score]
                if value > best * (1 + 1e-12):
                    best, chosen = value, (a, b)
        if chosen is None:
            break
        a, b = chosen
        new = a + b.removeprefix("##")
        merges.append(Merge(a, b, new, pairs[chosen], best))
        for word, parts in cut.items():
            at = 0
            while at + 1 < len(parts):
                if (parts[at], parts[at + 1]) == chosen:
                    parts[at : at + 2] = [new]
                at += 1
            cut[word] = parts
    return merges


@pytest.mark.parametrize("score", ["likelihood", "ratio", "frequency"])
@pytest.mark.parametrize("least", [1, 3])
def test_every_merge_is_that_of_counting_everything_again(score: str, least: int, texts: list[str]) -> None:
    for words in (WORDS, Counter(" ".join(texts)[:4000].split()), Counter({"aaaa": 3, "baaab": 2, "aabaaa": 1})):
        expected = slow(words, 60, score, least)
        V = len(characters(words, 99)) + len({letter for word in words for letter in word[1:]})
        V += len({merge.token for merge in expected})
        tokens, merges = learn(words, V, (), 99, score, least)
        for found, merge in zip(merges, expected):
            assert (found.left, found.right, found.token, found.count) == tuple(vars(merge).values())[:4]
            assert found.score == pytest.approx(merge.score)
        assert len(merges) >= len(expected) - 1 and len(tokens) == len({*tokens}) == V


def test_the_vocabulary_is_specials_then_characters_then_merges() -> None:
    tokens, merges = learn({"ab": 3, "abc": 1}, 7, ("[A]",), 99, "frequency", 1)
    assert tokens == ["[A]", "a", "b", "c", "##b", "##c", "ab"]
    assert merges == [Merge("a", "##b", "ab", 4, 4.0)]


def test_words_with_a_character_outside_the_alphabet_teach_nothing() -> None:
    tokens, _ = learn({"ab": 3, "az": 2, "ca": 2}, 4, (), 2, "frequency", 1)
    assert tokens == ["a", "b", "##b", "ab"]
    assert characters({"ba": 2, "c": 1, "d": 1}, 3) == ["a", "b", "c"]


def test_training_is_the_same_twice_and_the_size_is_exact(texts: list[str]) -> None:
    one, two = (WordPieceTokenizer.train(iter(texts), 500) for _ in range(2))
    assert one.fingerprint == two.fingerprint and one.V == 500
    assert one.story is not None and [merge.token for merge in one.story.merges][-1] in one.vocab


def test_frequency_learns_what_the_library_learns(texts: list[str]) -> None:
    from tokenizers import BertWordPieceTokenizer

    library = BertWordPieceTokenizer()
    library.train_from_iterator(texts, vocab_size=600, min_frequency=0, show_progress=False)
    ours = WordPieceTokenizer.train(texts, 600, score="frequency")
    assert len(ours.vocab.keys() & library.get_vocab().keys()) > 585  # the library breaks ties by other rules


def test_bad_training_is_refused_with_what_would_work(texts: list[str]) -> None:
    bad = [
        (["a ab"], 50, {}, "V=50 is more than this text supports: use at most 9"),
        (["a ab"], 7, {}, "V=7 has no room for the 5 special tokens and 2 characters: use at least 8"),
        (["a ab"], 9, {"score": "likelyhood"}, "unknown score 'likelyhood': did you mean 'likelihood'"),
        ([" \n"], 9, {}, "there is no text to train a WordPiece tokenizer on"),
        (["x" * 300], 9, {}, "there is no text to train a WordPiece tokenizer on"),
        (["a"], 9, {"specials": ("[UNK]", "[CLS]")}, r"the special token '\[SEP\]' is missing"),
        (["a"], 9, {"specials": ("[UNK]", "[CLS]", "[SEP]", "end")}, "the special token 'end' could be a word"),
    ]
    for text, V, options, message in bad:
        with pytest.raises(UserError, match=message):
            WordPieceTokenizer.train(text, V, **options)


def test_progress_hears_of_tokens(texts: list[str]) -> None:
    told = []
    WordPieceTokenizer.train(texts[:20], 400, progress=lambda *said: told.append(said))
    assert {said[1:] for said in told} == {(400, "tokens")}
