"""The embedding table read as words: those whose vectors lie near a word's, and those that complete an analogy."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxlm import arguments, ops
from jaxlm.axes import Array, Params
from jaxlm.errors import UserError
from jaxlm.text import Tokenizer

Scored = list[tuple[str, float]]  # words and cosines, best first


def vectors(params: Params, tokenizer: Tokenizer, words: Sequence[str]) -> Array:
    """The rows (words, D) of the model's embedding table. Raises UserError for a word that is not one token."""
    return jnp.asarray(_table(params, tokenizer))[np.array(ids(tokenizer, words), np.int32)]


def neighbours(params: Params, tokenizer: Tokenizer, word: str, k: int) -> Scored:
    """The k tokens nearest to `word`; errors as in `vectors`, and for a k larger than the vocabulary has others."""
    table_VD, (i,), k = _table(params, tokenizer), ids(tokenizer, [word]), arguments.integer(k, "k", 1)
    return _scored(tokenizer, ops.nearest_neighbours(table_VD, table_VD[i], k, exclude=[i]))


def analogy(params: Params, tokenizer: Tokenizer, a: str, b: str, c: str, k: int) -> Scored:
    """The k tokens nearest to a - b + c, see `ops.analogy`; errors as in `neighbours`."""
    (a_id, b_id, c_id), k = ids(tokenizer, [a, b, c]), arguments.integer(k, "k", 1)
    return _scored(tokenizer, ops.analogy(_table(params, tokenizer), a_id, b_id, c_id, k))


def ids(tokenizer: Tokenizer, words: Sequence[str]) -> list[int]:
    """The one token that each word is, a space before it included."""
    words = arguments.texts(words, "words")
    for word, tokens in zip(words, encoded := tokenizer.encode_batch(words)):
        if len(tokens) != 1 or tokens[0] == tokenizer.unk:
            raise UserError(_not_one(tokenizer, word, tokens))
    return [tokens[0] for tokens in encoded]


def _not_one(tokenizer: Tokenizer, word: str, tokens: list[int]) -> str:
    pieces = " + ".join(repr(tokenizer.spell(i)) for i in tokens) or "none"
    others = word.strip(), " " + word.strip()
    better = [repr(other) for other, found in zip(others, tokenizer.encode_batch(others)) if len(found) == 1]
    return f"{word!r} is not one token but {pieces}: choose {better[0] if better else 'a word that is one'}"


def _table(params: Params, tokenizer: Tokenizer) -> Array:
    """Without the rows that a model may have beyond its tokenizer's tokens."""
    return params["embed"]["table"][: tokenizer.V]


def _scored(tokenizer: Tokenizer, found: tuple[Array, Array]) -> Scored:
    cosines, ids = (x.tolist() for x in found)
    return [(tokenizer.spell(i), cosine) for i, cosine in zip(ids, cosines)]
