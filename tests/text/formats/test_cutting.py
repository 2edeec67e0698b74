"""Cutting texts into words, compared with the `tokenizers` library."""

import json
import unicodedata

import pytest

from jaxlm.errors import UserError
from jaxlm.text.formats.cutting import BEHAVIORS, cutter
from jaxlm.text.formats.layout import CL100K, GPT2, QWEN2, Json, byte_characters, byte_level
from jaxlm.text.formats.normalizing import normalizer
from jaxlm.text.formats.tiktoken import KIMI, O200K

LEVEL = byte_level("")[1]
BYTE_OF = {character: byte for byte, character in enumerate(byte_characters())}


def sequence(*steps: Json) -> Json:
    return {"type": "Sequence", "pretokenizers": [*steps, LEVEL]}


def split(pattern: str, behavior: str = "Isolated", invert: bool = False, kind: str = "Regex") -> Json:
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def library_words(spec: Json, text: str) -> list[str]:
    """The words of the library, which spells their bytes as characters."""
    from tokenizers import Tokenizer, models

    whole = json.loads(Tokenizer(models.BPE()).to_str()) | {"pre_tokenizer": spec}
    found = Tokenizer.from_str(json.dumps(whole)).pre_tokenizer.pre_tokenize_str(text)
    return [bytes(BYTE_OF[character] for character in word).decode() for word, _ in found]


SPECS = [
    LEVEL | {"use_regex": True},
    LEVEL | {"use_regex": True, "add_prefix_space": True},
    sequence({"type": "Digits", "individual_digits": True}),
    sequence({"type": "Digits", "individual_digits": False}, {"type": "Punctuation", "behavior": "Isolated"}),
    sequence(split("th|e ", kind="String"), split(" ", "MergedWithNext", kind="String")),
    sequence(split("(a|b)+")),
    sequence(split("^.|.$")),
    sequence(split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ\u30a0-ヿ]+"), split(r"[\p{L}\p{M}]+|\s+(?!\S)|\s+")),
    *(sequence(split(pattern)) for pattern in (GPT2, CL100K, O200K, QWEN2, KIMI)),
    *(sequence(split(r"\s|[aeiou]", behavior, invert)) for behavior in BEHAVIORS for invert in (False, True)),
    *(sequence({"type": "Punctuation", "behavior": behavior}) for behavior in BEHAVIORS),
]


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_words_are_those_of_the_library(spec: Json, texts: list[str], strange: list[str]) -> None:
    cut = cutter(spec, "test")
    more = [
        "日本語123カタカナ",
        "I'LL we'Re '\u017f 1234567 \u00bd\u0663",
        "a  b\u3000\x1c\x85 \n\n x",
        "CamelCase HTTPServer's",
        "!\"#$%&'`~^+",
    ]
    for text in [*texts[:10], *more, *strange[:200]]:
        # The two packages know different versions of Unicode: characters that are new to one are left out.
        text = "".join(c for c in text if unicodedata.category(c) != "Cn")
        assert [word for word in cut(text) if word] == library_words(spec, text), text


def test_normalising_is_unicodes() -> None:
    text = "e\u0301 \ufb01 \u212b"
    assert normalizer(None, "test")(text) == text
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert normalizer({"type": form}, "test")(text) == unicodedata.normalize(form, text)
    both = {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "NFKC"}]}
    assert normalizer(both, "test")(text) == "\u00e9 fi \u00c5"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"type": "Sequence", "pretokenizers": [LEVEL, split("a")]}, "ByteLevel before another"),
        (sequence(LEVEL), "ByteLevel before another"),
        (sequence({"type": "Metaspace"}), "the pre_tokenizer 'Metaspace' has no readable form"),
        (sequence(split("a", "Merged")), "unknown behavior of a Split 'Merged'"),
        (sequence(split("[a")), "no regular expression"),
    ],
)
def test_what_is_not_known_is_refused_by_name(spec: Json | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        cutter(spec, "x.json")


@pytest.mark.parametrize("text", [" ", "\n", "a", "A", "1", "'", "日", " \n", "\u0301", "aA", "a "])
@pytest.mark.parametrize("pattern", [GPT2, CL100K, O200K, KIMI])
def test_a_run_is_cut_in_linear_time(pattern: str, text: str) -> None:
    """Quadratic time would be minutes."""
    cut = cutter(sequence(split(pattern)), "test")
    long = text * (200_000 // len(text))
    assert "".join(cut(long)) == long and "".join(cut(long + "x")) == long + "x"
