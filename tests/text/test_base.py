import re

import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.text import SentencePieceTokenizer, Tokenizer


def test_decoding_gives_back_every_unicode_text(tokenizer: Tokenizer, strange: list[str]) -> None:
    for text, ids in zip(strange, tokenizer.encode_batch(strange, literal=True), strict=True):
        if isinstance(tokenizer, SentencePieceTokenizer):  # it decodes its own mark of a space as one
            text = text.replace("\u2581", " ")
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode_bytes(ids) == text.encode()
        assert tokenizer.decode(np.array(ids, np.uint16)) == text


def test_encode_agrees_with_its_batched_forms(tokenizer: Tokenizer, strange: list[str]) -> None:
    assert [tokenizer.encode(text) for text in strange] == tokenizer.encode_batch(strange)
    one = [tokenizer.encode(text, literal=True) for text in strange]
    assert one == tokenizer.encode_batch(strange, literal=True)
    arrays = tokenizer.encode_arrays(strange, np.uint16)
    assert one == [array.tolist() for array in arrays]
    assert {array.dtype for array in arrays} == {np.dtype(np.uint16)}
    assert tokenizer.encode_batch([]) == []


def test_ids_are_inside_the_vocabulary_and_literal_text_never_becomes_eot(
    tokenizer: Tokenizer, strange: list[str]
) -> None:
    ids = [i for text in strange for i in tokenizer.encode(text, literal=True)]
    assert min(ids) >= 0 and max(ids) < tokenizer.V
    assert tokenizer.eot not in ids


def test_special_puts_eot_first(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("abc", special=True)
    assert ids == [tokenizer.eot, *tokenizer.encode("abc")]
    assert tokenizer.decode(ids) == "<|endoftext|>abc"
    assert tokenizer.decode(ids, skip_special=True) == "abc"
    assert tokenizer.decode_bytes(ids) == b"abc"
    assert tokenizer.encode("", special=True) == [tokenizer.eot]


def test_bytes_that_are_not_utf8_become_replacement_characters(tokenizer: Tokenizer) -> None:
    euro = [tokenizer.pieces.index(bytes([byte])) for byte in "\u20ac".encode()]
    assert tokenizer.decode(euro) == "\u20ac"
    cut = tokenizer.decode([*euro[:2], *tokenizer.encode("x")])
    assert re.fullmatch("\ufffd{1,2}x", cut)  # one for each byte by the rules of ByteFallback, else one for both
    assert tokenizer.decode_bytes(euro[1:]) == "\u20ac".encode()[1:]


@pytest.mark.parametrize("ids", [[-1], [5, 10**6], [[1, 2]], [1.5], ["a"], 3, np.array([70_000])])
def test_ids_that_are_not_ids_are_refused(tokenizer: Tokenizer, ids: object) -> None:
    for decode in (tokenizer.decode, tokenizer.decode_bytes):
        with pytest.raises(UserError, match=r"token ids?"):
            decode(ids)


def test_no_ids_are_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([]) == "" and tokenizer.decode_bytes([]) == b""


def test_a_lone_surrogate_is_refused_by_name(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"lone surrogate U\+D800 at character 2"):
        tokenizer.encode("ab\ud800c")


def test_fingerprints_tell_tokenizers_apart(trained: dict[str, Tokenizer]) -> None:
    assert len({tokenizer.fingerprint for tokenizer in trained.values()}) == 5
    for kind in ("bpe", "unigram"):
        assert trained[f"readable_{kind}"].fingerprint == trained[f"fast_{kind}"].fingerprint
