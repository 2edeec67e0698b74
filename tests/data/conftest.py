"""Small collections of documents, written once."""

import random
from pathlib import Path

import pytest

from jaxlm.data import DataConfig, Dataset, Source, prepare

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "über", "日本", "\U0001f600", "x", "\n", "  ", "\t"]


def write(folder: Path, count: int, seed: int, words: list[str] = WORDS) -> None:
    chance = random.Random(seed)
    folder.mkdir(parents=True)
    for i in range(count):
        text = " ".join(chance.choices(words, k=chance.randrange(1, 60)))
        (folder / f"{i:03d}.txt").write_text(text, encoding="utf-8")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two folders of 60 and 40 documents that have no word in common."""
    root = tmp_path_factory.mktemp("documents")
    write(root / "one", 60, seed=1)
    write(root / "two", 40, seed=2, words=["one", "two", "three"])
    return str(root / "one"), str(root / "two")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def dataset(folders: tuple[str, str], cache: str) -> Dataset:
    return prepare(DataConfig(sources=(Source(folders[0]),), T=16, holdout=0.2, cache=cache))


@pytest.fixture(scope="session")
def mixture(folders: tuple[str, str], cache: str) -> Dataset:
    """Three to one."""
    sources = (Source(folders[0], weight=0.75), Source(folders[1], weight=0.25))
    return prepare(DataConfig(sources=sources, T=16, holdout=0.2, seed=7, cache=cache))
