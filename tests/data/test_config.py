import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from jaxlm.config import from_dict, override, to_dict
from jaxlm.data import DataConfig, Source, TokenizerConfig
from jaxlm.errors import UserError


def test_the_defaults_are_the_embedded_corpus_in_bytes() -> None:
    config = DataConfig()
    assert config.sources == (Source(path="embedded", weight=1.0, field="text"),)
    assert config.tokenizer == TokenizerConfig(kind="bytes", V=257, path=None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.T = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_configs_survive_json_and_overrides() -> None:
    config = DataConfig(sources=(Source("a.txt", 2.0), Source("b/*.jsonl", field="body")), limit=1000)
    assert from_dict(to_dict(config)) == config
    changed = override(config, ["tokenizer.kind=bpe", "tokenizer.V=4096", "T=64"])
    assert changed == dataclasses.replace(config, tokenizer=TokenizerConfig("bpe", 4096), T=64)


@pytest.mark.parametrize(
    ("text", "sources"),
    [
        ("sources=web/*.jsonl", [Source("web/*.jsonl")]),
        ("sources=a=b, c.txt", [Source("a=b"), Source("c.txt")]),
        ("sources=[ab]*.txt", [Source("[ab]*.txt")]),
        ('sources=["a, b.txt", {"path": "c", "weight": 2}]', [Source("a, b.txt"), Source("c", 2)]),
        ('sources={"path": "c"}', [Source("c")]),
        ("sources.0=a,b", [Source("a,b")]),
        ("sources.0.path=a,b", [Source("a,b", 3.0, "body")]),
    ],
)
def test_sources_are_written_as_paths_or_as_json(text: str, sources: list[Source]) -> None:
    config = DataConfig(sources=(Source("x", 3.0, "body"),))
    assert override(config, [text]) == dataclasses.replace(config, sources=tuple(sources))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources=[1]", "must be a tuple of Source, not .*: 1 is none"),
        ('sources=[["a"]]', r'must be a tuple of Source, not .*: \["a"\] is none'),
        ("sources=[null]", "must be a tuple of Source"),
        ('sources=["a",', "not valid JSON"),
        ("sources=", "at least one Source"),
        ("sources=a,,b", "path must be text, not ''"),
    ],
)
def test_sources_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(DataConfig(), [text])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Source(path=""), "path must be text"),
        (lambda: Source("x", weight=0), "x: weight must be a positive number, .*, not 0"),
        (lambda: Source("x", weight=float("nan")), "weight must be a positive number"),
        (lambda: Source("x", weight=float("inf")), "weight must be a positive number"),
        (lambda: Source("x", weight=True), "weight must be a positive number"),
        (lambda: Source("x", weight=1e300), "from 1e-15 to 1e15, not 1e.300"),
        (lambda: Source("x", weight=10**5000), "not a number of [0-9]+ bits"),
        (lambda: Source("x" * 5000, weight=-1), r"data source x+\.\.\.: weight"),
        (lambda: Source("x", field=""), "field must be text"),
        (lambda: TokenizerConfig(kind="bite"), "unknown tokenizer kind 'bite': did you mean 'bytes'"),
        (lambda: TokenizerConfig(kind=["bpe"]), "unknown tokenizer kind"),  # pyright: ignore[reportArgumentType]
        (lambda: TokenizerConfig("bpe", 2**31), "V must be a positive integer below"),
        (lambda: TokenizerConfig(V=300), "the byte tokenizer has V=257, not 300"),
        (lambda: TokenizerConfig("bpe"), "V=257 is too small for a bpe tokenizer"),
        (lambda: TokenizerConfig("unigram", V=0), "V must be a positive integer"),
        (lambda: TokenizerConfig("file"), "needs a path"),
        (lambda: TokenizerConfig("bpe", 400, path="x"), "takes no path"),
        (lambda: DataConfig(sources=()), "at least one Source"),
        (lambda: DataConfig(sources=("a.txt",)), "at least one Source"),  # pyright: ignore[reportArgumentType]
        (lambda: DataConfig(T=0), "data.T must be a positive integer .*, not 0"),
        (lambda: DataConfig(T=True), "data.T must be a positive integer"),
        (lambda: DataConfig(T=2**31), "data.T must be a positive integer below"),
        (lambda: DataConfig(T=10**5000), "data.T must be .* not a number of [0-9]+ bits"),
        (lambda: DataConfig(holdout=float("nan")), "data.holdout must be between 0 and 1"),
        (lambda: DataConfig(seed=2**31), "data.seed must be"),
        (lambda: DataConfig(seed=True), "data.seed must be"),
        (lambda: DataConfig(limit=2**63), "data.limit must be a number of bytes"),
        (lambda: DataConfig(holdout=0.0), "data.holdout must be between 0 and 1"),
        (lambda: DataConfig(holdout=1.0), "data.holdout must be between 0 and 1"),
        (lambda: DataConfig(seed=-1), "data.seed must be"),
        (lambda: DataConfig(limit=0), "data.limit must be a number of bytes"),
        (lambda: DataConfig(cache=""), "data.cache must be a folder"),
    ],
)
def test_mistakes_are_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_importing_the_room_imports_nothing_heavy() -> None:
    heavy = ("jax", "grain", "flax", "pyarrow", "sentencepiece", "orbax")
    code = f"import sys, jaxlm.data; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
