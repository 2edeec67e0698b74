"""Tokenizers of each kind, trained once on a few hundred kilobytes of text."""

import argparse
import inspect
import json.decoder
import random
import textwrap

import pytest

from jaxlm.text import ByteTokenizer, Tokenizer, train_sentencepiece


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
    }


@pytest.fixture(scope="session", params=["bytes", "bpe", "unigram"])
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
