"""Tokenizers of each kind, trained once on a few hundred kilobytes of text."""

import argparse
import gzip
import inspect
import json.decoder
import random
import textwrap
import zipfile
from pathlib import Path

import pytest

from jaxlm.text import BPETokenizer, ByteTokenizer, FastTokenizer, Tokenizer, UnigramTokenizer, train_sentencepiece

LANGUAGES = "arb cmn_hans deu fin fra heb hin jpn kor rus swh tha tur vie"


@pytest.fixture(scope="session")
def texts() -> list[str]:
    sources = [inspect.getsource(module) for module in (argparse, json.decoder, textwrap, inspect)]
    return [paragraph for source in sources for paragraph in source.split("\n\n\n")]


@pytest.fixture(scope="session")
def trained(texts: list[str]) -> dict[str, Tokenizer]:
    return {
        "bytes": ByteTokenizer(),
        "bpe": train_sentencepiece(texts, V=800),
        "unigram": train_sentencepiece(texts, V=500, kind="unigram", limit=60_000),
        "readable_bpe": (readable := BPETokenizer.train(texts, V=600)),
        "fast_bpe": FastTokenizer(readable.to_json()),
        "readable_unigram": (readable := UnigramTokenizer.train(texts, V=500)),
        "fast_unigram": FastTokenizer(readable.to_json()),
    }


KINDS = ["bytes", "bpe", "unigram", "readable_bpe", "fast_bpe", "readable_unigram", "fast_unigram"]


@pytest.fixture(scope="session", params=KINDS)
def tokenizer(request: pytest.FixtureRequest, trained: dict[str, Tokenizer]) -> Tokenizer:
    return trained[request.param]


@pytest.fixture(scope="session")
def strange() -> list[str]:
    """Texts that tokenizers like to change: every kind of space, look-alikes of their own marks, all planes."""
    chance = random.Random(0)
    characters = [chr(code) for code in range(256)]
    characters += list("\u2581\u2047\u2585\ufeff\ufffd\u3000\u200b\u2028\u0301\ue000")
    characters += ["\U0001f600", "\U0010ffff", "\ufb01", "\u2460", "A\u030a", "<|endoftext|>", "<unk>", "<0x41>", "▁"]
    characters += [" ", "\n", "\t", "\r\n", "  ", "\0", "1234", "the", "self."] * 6
    fixed = ["", " ", "\n", "\0", "▁", " ▁ ", "▁▁a", "<|endoftext|>", "日本\U0001f600", "  a\n\n   b\t\tc  ", "\r\n"]
    return fixed + ["".join(chance.choices(characters, k=chance.randrange(30))) for _ in range(500)]


@pytest.fixture(scope="session")
def languages(shared: Path) -> dict[str, str]:
    """Whole texts: English, Spanish, and the Universal Declaration of Human Rights in fourteen more languages."""
    folder = shared / "data/text"
    found = {
        "eng": (folder / "tinyshakespeare.txt").read_text(encoding="utf-8"),
        "spa": gzip.decompress((folder / "quijote.txt.gz").read_bytes()).decode(),
    }
    with zipfile.ZipFile(folder / "udhr2.zip") as archive:
        for name in LANGUAGES.split():
            found[name] = archive.read(f"udhr2/{name}.txt").decode()
    return found


@pytest.fixture(scope="session")
def random_texts() -> list[str]:
    """Short texts of random Unicode characters, with the spellings of special tokens and characters that change."""
    chance = random.Random(1)
    ranges = [(0, 0x80), (0, 0x250), (0x300, 0x370), (0x250, 0xD800), (0xE000, 0x10000), (0x10000, 0x110000)]
    spellings = [" ", "\n", "[SEP]", "[MASK]", "<unk>", "<|endoftext|>", "İ", "Σ", "ñ", "日", "A\u030a", "한", "e"]

    def character() -> str:
        return chr(chance.randrange(*chance.choice(ranges))) if chance.random() < 0.6 else chance.choice(spellings)

    return ["".join(character() for _ in range(chance.randrange(25))) for _ in range(5000)]
