import zlib

import numpy as np
import pytest

from jaxlm.data import DataConfig, Dataset, Source, TokenizerConfig, baselines, prepare
from jaxlm.data.baselines import train_byte_counts, unigram_bits, zlib_bits


def test_against_the_definitions(mixture: Dataset) -> None:
    train = b"".join(mixture.tokenizer.decode_bytes(np.concatenate(list(shards.blocks()))) for shards in mixture.train)
    held = "".join(mixture.heldout_texts()).encode()
    assert len(held) == mixture.heldout_bytes
    probability = {byte: (train.count(byte) + 1) / (len(train) + 256) for byte in range(256)}
    got = baselines(mixture)
    assert list(got) == ["uniform", "unigram", "zlib"]
    assert got["uniform"] == 8
    assert got["unigram"] == pytest.approx(np.mean([-np.log2(probability[byte]) for byte in held]))
    assert got["zlib"] == 8 * len(zlib.compress(held, 9)) / len(held)


def test_they_do_not_depend_on_the_tokenizer(folders: tuple[str, str], cache: str, mixture: Dataset) -> None:
    sources = (Source(folders[0]), Source(folders[1]))
    pieces = prepare(DataConfig(sources, TokenizerConfig("bpe", 320), T=16, holdout=0.2, cache=cache))
    assert pieces.tokenizer.V == 320
    np.testing.assert_array_equal(train_byte_counts(pieces), train_byte_counts(mixture))
    assert baselines(pieces) == baselines(mixture)


def test_bytes_never_seen_in_training_still_have_a_price() -> None:
    counts = np.zeros(256, np.int64)
    assert unigram_bits(counts, ["any text"]) == 8
    counts[ord("a")] = 256
    assert unigram_bits(counts, ["b"]) == 9
    assert np.isnan(unigram_bits(counts, [])) and np.isnan(zlib_bits([]))
