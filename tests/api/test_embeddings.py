import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.api import LanguageModel
from jaxlm.errors import UserError
from jaxlm.models import LM
from jaxlm.text import ByteTokenizer, load_tokenizer
from tests import tiny
from tests.ops.test_similarity import cosine
from tests.weights import weights

# gender, royalty, country, capital; in the middle of a text words have a space before them
WORDS = {
    " rey": (1, 1, 0, 0),
    " reina": (-1, 1, 0, 0),
    " hombre": (1, 0, 0, 0),
    " mujer": (-1, 0, 0, 0),
    "mujer": (-1, 0.2, 0, 0),
    " España": (0, 0, 1, 0),
    " Madrid": (0, 0, 1, 1),
    " Francia": (0, 0, -1, 0),
    " París": (0, 0, -1, 1),
}


class WordTokenizer(ByteTokenizer):
    """Bytes, and some words: the longest that the text begins with."""

    V = 257 + len(WORDS)

    def __init__(self):
        super().__init__()
        self.pieces = [*self.pieces, *(word.encode() for word in WORDS)]

    def encode_batch(self, texts):
        return [self._encode(text.encode()) for text in texts]

    def _encode(self, text: bytes) -> list[int]:
        ids = []
        while text:
            i = max(
                (i for i, piece in enumerate(self.pieces) if text.startswith(piece)), key=lambda i: len(self.pieces[i])
            )
            ids.append(i)
            text = text[len(self.pieces[i]) :]
        return ids


def model(tokenizer=WordTokenizer(), **changes) -> LanguageModel:
    c = tiny.model(V=280, **changes)
    params = weights(LM(c), np.zeros((1, 1), np.int32))
    table = params["embed"]["table"]
    table *= 0.1
    table[257 : 257 + len(WORDS), :4] += 10 * np.array(list(WORDS.values()), np.float32)
    table[257 : 257 + len(WORDS), 4] += 3  # something all words have
    table[270:] = table[257]  # rows that no token has are as near to " rey" as can be
    return LanguageModel(c, jax.tree.map(jnp.asarray, params), tokenizer)


def test_neighbours_are_tokens_as_they_are_spelled():
    lm = model()
    table = lm.params["embed"]["table"]
    found = lm.neighbours(" mujer", k=20)
    assert [word for word, _ in found[:2]] == ["mujer", " reina"]
    scores = {lm.tokenizer.spell(i): cosine(table[260], table[i]) for i in range(lm.tokenizer.V) if i != 260}
    assert [word for word, _ in found] == sorted(scores, key=lambda word: -scores[word])[:20]
    for word, score in found:
        assert type(score) is float and score == pytest.approx(scores[word], abs=1e-6)
    assert len(lm.neighbours(" rey")) == 8
    everything = [word for word, _ in lm.neighbours(" rey", k=265)]
    assert len(set(everything)) == 265  # every token but one, and no other row
    assert {" reina", "<|endoftext|>", "a", "\n", "\\xff"} <= set(everything) and " rey" not in everything


@pytest.mark.parametrize(
    "a, b, c, answer",
    [(" rey", " hombre", " mujer", " reina"), (" Madrid", " España", " Francia", " París")],
)
def test_analogies(a, b, c, answer):
    found = model().analogy(a, b, c, k=2)
    assert len(found) == 2 and found[0][0] == answer and found[0][1] > 0.95 > found[1][1]


@pytest.mark.parametrize("changes", [{"tied": False}, {"embed_width": 16}], ids=str)
def test_it_is_the_table_of_the_input(changes):
    assert model(**changes).analogy(" rey", " hombre", " mujer", k=1)[0][0] == " reina"


def test_vectors_of_words():
    lm = model()
    rows = np.asarray(lm.params["embed"]["table"])[[257, 97, 257]]
    np.testing.assert_array_equal(lm.vectors([" rey", "a", " rey"]), rows)
    np.testing.assert_array_equal(lm.vectors(" rey"), lm.vectors([" rey"]))


def test_words_that_are_not_one_token():
    lm = model()
    for word, message in {
        "rey": "'rey' is not one token but 'r' + 'e' + 'y': choose ' rey'",
        " ab": "' ab' is not one token but ' ' + 'a' + 'b': choose a word that is one",
        "é": r"'é' is not one token but '\\xc3' + '\\xa9': choose a word that is one",
        "  mujer": "'  mujer' is not one token but ' ' + ' mujer': choose 'mujer'",
        "": "'' is not one token but none: choose ' '",
    }.items():
        for call in (lm.vectors, lm.neighbours, lambda w: lm.analogy(" rey", w, " mujer")):
            with pytest.raises(UserError, match="^" + re.escape(message) + "$"):
                call(word)


def test_what_cannot_be_asked():
    with pytest.raises(UserError, match="there are no k=266 neighbours: of 266 vectors 265 are left"):
        model().neighbours(" rey", k=266)
    with pytest.raises(UserError, match="this model has no tokenizer"):
        model(tokenizer=None).neighbours(" rey")


def test_spelling_of_other_tokenizers(shared):
    tokenizer = load_tokenizer(shared / "data/tokenizers/llama2_tokenizer.model")
    spelled = {i: tokenizer.spell(i) for i in (1, 2, 3 + 0xE2, 3 + ord("a"), *tokenizer.encode("king reina"))}
    assert list(spelled.values()) == ["<s>", "</s>", "\\xe2", "a", " king", " re", "ina"]
