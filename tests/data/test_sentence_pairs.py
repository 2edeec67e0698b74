"""Pairs of texts for the next sentence: what follows follows, and special tokens are not to be hidden."""

import numpy as np
import pytest

from jaxlm.data import SentencePairs, Source
from jaxlm.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Documents of bytes that count up, each from a start of its own, so that what follows can be told."""
    folder = tmp_path_factory.mktemp("text")
    for i in range(40):
        (folder / f"{i:02}.txt").write_bytes(bytes(32 + (7 * i + j) % 90 for j in range(30 + 3 * i)))
    return SentencePairs((Source(str(folder)),), T=20, holdout=0.2, cache=str(folder / "cache")).prepare()


def test_rows(data):
    eot = data.tokenizer.eot
    with data.train_batches(256) as batches:
        batch = next(batches)
    for row in range(256):
        one = {name: x[row] for name, x in batch.items()}
        n = int(one["segments"].sum())
        ids, types = one["tokens"][:n], one["types"][:n]
        assert ids[0] == ids[-1] == eot and (ids == eot).sum() == 3 and one["pair_weights"] == 1
        np.testing.assert_array_equal(one["weights"][:n], ids != eot)
        np.testing.assert_array_equal(one["positions"][:n], np.arange(n))
        assert not one["tokens"][n:].any() and not one["weights"][n:].any() and not one["types"][n:].any()
        at = int(np.flatnonzero(ids == eot)[1])
        np.testing.assert_array_equal(types, np.arange(n) > at)
        first, second = ids[1:at], ids[at + 1 : -1]
        assert len(first) and len(second)
        goes_on = (first[-1] - 32 + 1) % 90 == second[0] - 32
        assert goes_on if one["follows"][0] else True
    assert 0.35 < batch["follows"].mean() < 0.6
    others = batch["follows"][:, 0] == 0
    assert others.sum() > 80


def test_heldout_rows_and_order(data):
    held = data.heldout_rows()
    (first,) = held.batches(64, range(64))
    assert first["pair_weights"].sum() == len(held.places) < 64
    assert not first["weights"][len(held.places) :].any() and not first["pair_weights"][len(held.places) :].any()
    assert len(data.heldout_rows(45).places) == 3
    with data.train_batches(8) as a, data.train_batches(8) as b:
        np.testing.assert_array_equal(next(a)["tokens"], next(b)["tokens"])
    assert data.fingerprint != data.of.fingerprint and "pairs of texts" in data.summary(8)


def test_what_cannot_be():
    with pytest.raises(UserError, match=r"data.T=4 has no room for two texts and 3 special tokens"):
        SentencePairs(T=4)
