import json
from pathlib import Path

import pytest

from jaxlm.errors import UserError
from jaxlm.text import FastTokenizer, WordPieceTokenizer, vocab_txt_to_json

LINES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "el",
    "gato",
    "El",
    "come",
    "##ra",
    "com",
    "é",
    "e",
    "日",
    "日本",
]
VOCAB = "\n".join([*LINES, ""]).encode()


def test_the_published_file_and_its_tokenizer_json_are_the_same(shared: Path) -> None:
    folder = shared / "parity/tokenizers/wordpiece_bert"
    spec = vocab_txt_to_json((folder / "vocab.txt").read_bytes())
    assert spec == json.loads((folder / "tokenizer.json").read_bytes())


def test_flags_say_what_is_done_to_the_text() -> None:
    def tokens(text: str, *flags: bool | None) -> list[str]:
        return FastTokenizer(vocab_txt_to_json(VOCAB, "v", *flags)).encoding(text).tokens  # pyright: ignore[reportArgumentType]

    assert tokens("El é 日本") == ["el", "e", "日", "[UNK]"]
    assert tokens("El é 日本", False) == ["El", "é", "日", "[UNK]"]
    assert tokens("El É 日本", True, False, False) == ["el", "é", "日本"]


def test_two_texts_are_divided_and_typed() -> None:
    spec = vocab_txt_to_json(VOCAB)
    for tokenizer in (FastTokenizer(spec), WordPieceTokenizer.from_json(spec)):
        both = tokenizer.encoding("El gato", "comera [MASK]", special=True)
        assert both.tokens == ["[CLS]", "el", "gato", "[SEP]", "come", "##ra", "[MASK]", "[SEP]"]
        assert both.types == [0, 0, 0, 0, 1, 1, 1, 1]


def test_ends_of_lines_are_those_of_either_system() -> None:
    assert vocab_txt_to_json(VOCAB.replace(b"\n", b"\r\n")) == vocab_txt_to_json(VOCAB) == vocab_txt_to_json(VOCAB[:-1])
    odd = vocab_txt_to_json(VOCAB + "\u2028\n\u0085\n".encode())
    assert odd["model"]["vocab"]["\u0085"] == len(LINES) + 1


def test_what_is_no_vocabulary_is_refused_by_name() -> None:
    bad = [
        (VOCAB + b"\n", "line 16 is empty"),
        (VOCAB + b"el\n", "lines 6 and 16 are both 'el'"),
        (VOCAB.replace(b"[UNK]", b"unk"), r"no line of 15 is \[UNK\]"),
        (VOCAB[:14], r"no line of 3 is \[CLS\]"),
        (VOCAB[:-2], "byte .* is not UTF-8"),
        (b"\x89PNG", "byte 0 is not UTF-8"),
        (b"", r"no line of 0 is \[UNK\]"),
        (b'{"a": 0}', "not a whole vocab.txt of BERT"),
    ]
    for data, message in bad:
        with pytest.raises(UserError, match=f"^some/vocab.txt: .*{message}"):
            vocab_txt_to_json(data, "some/vocab.txt")
