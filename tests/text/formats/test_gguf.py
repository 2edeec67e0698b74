"""Tokenizers as values of a GGUF file: written and read, they encode and decode alike."""

from pathlib import Path

import pytest

from jaxlm.errors import UserError
from jaxlm.text import load_tokenizer
from jaxlm.text.formats.gguf import gguf_tokenizer, gguf_values

FOLDER = Path(__file__).resolve().parents[4] / "shared" / "parity" / "tokenizers"
TEXTS = (
    "",
    "Hello, world!  two spaces\n\n\tand a tab",
    "El niño comió 3 manzanas; ¡qué día! 1234",
    "日本語 🙂 \u00a0x",
)


@pytest.mark.parametrize("kind", ["spm_bpe", "byte_bpe_gpt2", "byte_bpe_split"])
def test_there_and_back(kind):
    if not (FOLDER / kind).exists():
        pytest.skip(f"needs the tokenizers in {FOLDER}, which is not there")
    tokenizer = load_tokenizer(FOLDER / kind)
    again = gguf_tokenizer(gguf_values(tokenizer, kind), kind)
    assert again is not None and again.V == tokenizer.V and again.eos == tokenizer.eos
    for text in TEXTS:
        ids = tokenizer.encode(text, special=True)
        assert again.encode(text, special=True) == ids
        assert again.decode(ids) == tokenizer.decode(ids)


def values(**more):
    own = {
        "model": "llama",
        "tokens": ["<unk>", "a", "b"],
        "scores": [0.0, -1.0, -2.0],
        "token_type": [2, 1, 1],
        **more,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in own.items()}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"model": "rwkv"}, r"unknown tokenizer\.ggml\.model 'rwkv'"),
        ({"scores": [0.0]}, "scores are 1, for 3 tokens"),
        ({"token_type": [1]}, "tokens and token_type are of 3 and 1 tokens"),
        ({"bos_token_id": 7}, "the bos token has id 7, of 3 tokens"),
        ({"model": "gpt2", "pre": "odd"}, r"unknown tokenizer\.ggml\.pre 'odd'"),
    ],
)
def test_bad_input(change, line):
    with pytest.raises(UserError, match=line):
        gguf_tokenizer(values(**change), "m.gguf")
    assert gguf_tokenizer({}, "m.gguf") is None
