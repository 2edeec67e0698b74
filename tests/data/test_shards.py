import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from jaxlm.data import shards
from jaxlm.data.shards import Shards, ShardWriter, dtype_for, intact


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr(shards, "SHARD_BYTES", 64)
    monkeypatch.setattr(shards, "BLOCK", 50)
    return np.random.default_rng(0).integers(0, 60_000, 1003)


@pytest.fixture(params=["uint16", "uint32"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, tokens: np.ndarray) -> Path:
    writer = ShardWriter(tmp_path / "split", np.dtype(request.param))
    for part in np.split(tokens, [0, 1, 1, 40, 500]):
        writer.write(part)
    writer.documents, writer.bytes = 7, 12345
    writer.close()
    return tmp_path / "split"


def test_the_stream_comes_back_across_shards(folder: Path, tokens: np.ndarray) -> None:
    stream = Shards(folder)
    assert (stream.tokens, stream.documents, stream.bytes) == (1003, 7, 12345)
    assert len(list(folder.glob("tokens-*.bin"))) == -(-1003 * stream.dtype.itemsize // 64)
    assert max(path.stat().st_size for path in folder.glob("*.bin")) == 64
    np.testing.assert_array_equal(np.concatenate(list(stream.blocks())), tokens)
    for start, length in ((0, 1), (0, 1003), (31, 2), (32, 32), (30, 200), (1000, 3), (1000, 50), (1003, 5), (5, 0)):
        window = stream.window(start, length)
        np.testing.assert_array_equal(window, tokens[start : start + length])
        assert window.dtype == stream.dtype and type(window) is np.ndarray


def test_maps_are_opened_when_used_and_not_pickled(folder: Path, tokens: np.ndarray) -> None:
    stream = Shards(folder)
    assert not stream._maps
    stream.window(0, 1003)
    copy = pickle.loads(pickle.dumps(stream))
    assert stream._maps and not copy._maps
    np.testing.assert_array_equal(copy.window(0, 1003), tokens)


def test_the_digest_is_of_the_contents(folder: Path, tmp_path: Path, tokens: np.ndarray) -> None:
    for name, change in (("same", 0), ("other", 1)):
        writer = ShardWriter(tmp_path / name, Shards(folder).dtype)
        writer.write(np.append(tokens[:-1], tokens[-1] + change))
        writer.documents, writer.bytes = 7, 12345
        writer.close()
    assert Shards(tmp_path / "same").digest == Shards(folder).digest != Shards(tmp_path / "other").digest


def test_a_whole_folder_is_intact(folder: Path) -> None:
    assert intact(folder) and intact(folder, deep=True)


@pytest.mark.parametrize(
    "damage", ["cut", "grown", "gone", "no meta", "not JSON", "list", "count", "null", "not UTF-8"]
)
def test_damage_is_seen_by_sizes_and_counts(folder: Path, damage: str) -> None:
    shard, meta = folder / "tokens-00003.bin", folder / "meta.json"
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "grown":
        shard.write_bytes(shard.read_bytes() + b"x")
    elif damage == "gone":
        shard.unlink()
    elif damage == "no meta":
        meta.unlink()
    elif damage == "not UTF-8":
        meta.write_bytes(b"\xff\xfe")
    elif damage == "count":
        meta.write_text(json.dumps(json.loads(meta.read_text()) | {"bytes": 12346}))
    else:
        meta.write_text({"not JSON": '{"tokens": 1003,', "list": "[1]", "null": "null"}[damage])
    assert not intact(folder)


def test_a_changed_byte_is_seen_on_demand(folder: Path) -> None:
    shard = folder / "tokens-00003.bin"
    data = bytearray(shard.read_bytes())
    data[17] ^= 4
    shard.write_bytes(data)
    assert intact(folder) and not intact(folder, deep=True)


def test_the_dtype_is_the_smallest_that_holds_the_vocabulary() -> None:
    assert dtype_for(257) == dtype_for(65_536) == np.dtype(np.uint16)
    assert dtype_for(65_537) == np.dtype(np.uint32)
