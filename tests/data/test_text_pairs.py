"""Pairs of texts: what a row is, which are held out, that batches resume and nothing else changes them."""

import dataclasses

import numpy as np
import pytest

from jaxlm.data import TextPairs, TokenizerConfig
from jaxlm.data.text_pairs import grouped
from jaxlm.errors import UserError

WORDS = ["ein", "zwei", "drei", "Haus", "Baum", "Hund"]
PAIRS = [(f"{a} {b} {i}", f"{b} {a}") for i in range(4) for a in WORDS[:3] for b in WORDS[3:]]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "a.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in PAIRS))
    return TextPairs(str(tmp_path / "a.tsv"), tokenizer=TokenizerConfig(), T=30, holdout=0.2, cache=str(tmp_path / "c"))


def texts(dataset, encoded):
    """The pairs as texts again."""
    decode = lambda ids: dataset.tokenizer.decode(ids.tolist(), skip_special=True)
    return [(decode(a), decode(b)) for a, b in encoded]


def parts(row, prefix, *names):
    """The parts of a row by segment, one list for each name."""
    segments = row[f"{prefix}segments"]
    return [[row[name][segments == i].tolist() for name in names] for i in range(1, segments.max() + 1)]


def test_rows_are_whole_pairs(data):
    """Side by side on both sides, each counted from its beginning; padding has no segment and no weight."""
    dataset = data.prepare()
    tokenizer, rows, seen = dataset.tokenizer, dataset.heldout_rows().rows, []
    for row in (rows[i] for i in range(len(rows))):
        assert all(x.shape == (30,) for x in row.values())
        both = zip(parts(row, "source_", "source", "source_positions"), parts(row, "", "tokens", "labels", "positions"))
        for (source, source_at), (target, labels, at) in both:
            assert source_at == list(range(len(source))) and at == list(range(len(target)))
            assert target == [tokenizer.eot, *labels[:-1]] and labels[-1] == tokenizer.eot
            seen.append((tokenizer.decode(source, skip_special=True), tokenizer.decode(labels[:-1])))
        assert (row["weights"] == (row["segments"] > 0)).all()
        assert not row["tokens"][row["segments"] == 0].any() and not row["source"][row["source_segments"] == 0].any()
    assert sorted(seen) == sorted(texts(dataset, dataset.heldout)) and len(rows) < len(seen)


def test_pairs_share_rows():
    sizes = [(3, 9), (3, 2), (8, 1), (2, 2), (10, 10), (1, 1)]
    assert grouped(sizes, 10) == [[0, 5], [1, 3], [2], [4]]


def test_every_pair_is_trained_on_or_held_out(data):
    dataset = data.prepare()
    train, heldout = (texts(dataset, side) for side in (dataset.train, dataset.heldout))
    assert sorted(train + heldout) == sorted(PAIRS)
    assert 0 < len(heldout) < len(train) and not {a for a, _ in train} & {a for a, _ in heldout}
    short = dataclasses.replace(data, T=11).prepare()
    assert short.read > len(short.train) and "longer than T=11 left out" in short.summary(100)


def test_held_out_files_and_small_letters(data, tmp_path):
    (tmp_path / "b.tsv").write_text("Hund\tHUND\n")
    dataset = dataclasses.replace(data, heldout_source=str(tmp_path / "b.tsv"), lower=True).prepare()
    assert texts(dataset, dataset.heldout) == [("hund", "hund")]
    assert len(dataset.train) == len(PAIRS)


def test_a_trained_tokenizer_serves_both_sides(data):
    dataset = dataclasses.replace(data, tokenizer=TokenizerConfig("bpe", 300)).prepare()
    assert dataset.tokenizer.V == 300
    assert sorted(texts(dataset, dataset.train) + texts(dataset, dataset.heldout)) == sorted(PAIRS)
    tokenizer = dataset.tokenizer
    assert dataset.heldout_rows().rows[0]["labels"][len(dataset.heldout[0][1])] == tokenizer.eos


def test_training_goes_on_where_it_stopped(data):
    dataset = data.prepare()
    with dataset.train_batches(4) as batches:
        seen = [next(batches) for _ in range(3)]
        state = batches.get_state()
        following = next(batches)
    with dataset.train_batches(4, rows=[1, 3]) as batches:
        batches.set_state(state)
        some = next(batches)
    for name, x in following.items():
        np.testing.assert_array_equal(x[[1, 3]], some[name])
    rows = np.concatenate([one["source"] for one in seen])
    assert len(np.unique(rows, axis=0)) == len(rows)  # of the first epoch
    other = dataclasses.replace(data, seed=1).prepare()
    assert other.fingerprint != dataset.fingerprint == data.prepare().fingerprint
    with other.train_batches(4) as batches, pytest.raises(UserError, match="other training data"):
        batches.set_state(state)


def test_the_last_batch_is_filled(data):
    dataset = data.prepare()
    count = len(dataset.heldout_rows().rows)
    batches = list(dataset.heldout_rows().batches(4, range(4)))
    assert len(batches) == -(-count // 4)
    assert sum((one["weights"].sum(1) > 0).sum() for one in batches) == count
    assert sum(one["weights"].sum() for one in batches) == sum(len(target) + 1 for _, target in dataset.heldout)
    assert len(list(dataset.heldout_rows(60).batches(1, [0]))) == 2


def test_mistakes(data, tmp_path):
    with pytest.raises(UserError, match=r"data\.source must name a file"):
        TextPairs("")
    with pytest.raises(UserError, match="of the form of the training pairs"):
        dataclasses.replace(data, target="x", heldout_source="y")
    with pytest.raises(UserError, match="no pair has at most T=3 tokens"):
        dataclasses.replace(data, T=3).prepare()
    (tmp_path / "a.tsv").write_text("one\tone\n")
    with pytest.raises(UserError, match="too few pairs to train on some and hold out others"):
        data.prepare()
