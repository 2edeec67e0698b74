import json

import pytest
from tokenizers import Tokenizer as Library

from jaxlm.errors import UserError
from jaxlm.text.formats import layout
from jaxlm.text.readable.steps import LOSSLESS, Steps

METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
SPACES = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
NORMALIZERS = [
    {"type": "NFKC"},
    {"type": "NFD"},
    {"type": "Lowercase"},
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": "."}, "content": "\\1"},
    {"type": "Sequence", "normalizers": [{"type": "NFKC"}, SPACES]},
]
PRE_TOKENIZERS = [
    LOSSLESS,
    METASPACE,
    METASPACE | {"prepend_scheme": "never"},
    METASPACE | {"split": False},
    {"type": "WhitespaceSplit"},
    {"type": "Split", "pattern": {"Regex": "[aeiou]+"}, "behavior": "Isolated", "invert": False},
    {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]},
]


def library(normalizer: dict | None, pre_tokenizer: dict | None) -> Library:
    model = layout.unigram([("<unk>", 0.0)], 0, False)
    return Library.from_str(json.dumps(layout.document(model, {}, normalizer, pre_tokenizer)))


@pytest.mark.parametrize("step", NORMALIZERS, ids=lambda step: step["type"])
def test_texts_are_normalised_as_in_the_library(step: dict, strange: list[str]) -> None:
    theirs, ours = library(step, None).normalizer, Steps(step, None).normalize
    for text in [*strange, "ΑΣ ΣΑΣ", "İI", "a.b  c"]:
        assert ours(text) == theirs.normalize_str(text)


@pytest.mark.parametrize("step", PRE_TOKENIZERS, ids=lambda step: step["type"])
def test_texts_are_cut_as_in_the_library(step: dict, strange: list[str]) -> None:
    theirs, ours = library(None, step).pre_tokenizer, Steps(None, step)
    for text in [*strange, "नमस्ते दुनिया, สวัสดี", "don't 3rd\r\n\r\n  x"]:
        assert ours.words(text) == [word for word, _ in theirs.pre_tokenize_str(text)]


def test_our_own_words_lose_nothing_and_are_no_byte_tokens(strange: list[str]) -> None:
    for text in strange:
        assert "".join(Steps().words(text)) == text
    assert Steps().words("a <0x41><|end|>") == ["a", " <", "0", "x", "41", "><|", "end", "|>"]


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (Steps({"type": "Precompiled"}), "the normalizer 'Precompiled' has no readable form"),
        (Steps(None, METASPACE | {"prepend_scheme": "first"}), "the pre_tokenizer 'Metaspace' has no readable form"),
        (Steps(None, LOSSLESS | {"behavior": "Mixed"}), "unknown behavior of a Split 'Mixed'"),
    ],
)
def test_steps_that_are_not_known_are_named(steps: Steps, message: str) -> None:
    with pytest.raises(UserError, match=message):
        steps.words("a")
