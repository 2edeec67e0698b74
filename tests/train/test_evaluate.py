"""Held-out scores against a loop over tokens, on every mesh; samples."""

import dataclasses
import math
import sys

import jax
import numpy as np
import pytest

from jaxlm import data, models
from jaxlm.decode import generate
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.text import ByteTokenizer
from jaxlm.train import evaluate as room
from jaxlm.train.setup import Setup
from tests import tiny
from tests.meshes import name


@pytest.fixture(scope="module")
def dataset(text):
    return data.prepare(tiny.run(text).data)


def params(run, mesh):
    return Setup(run, mesh).create()[0].params


def score(run, dataset, mesh):
    with jax.set_mesh(mesh):
        return room.make_evaluator(run, dataset, mesh)(params(run, mesh))


def one():
    return make_mesh(MeshConfig(data=1), jax.devices()[:1])


def slow(run, dataset) -> tuple[float, int]:
    """The sum of the loss over every held-out token but the first, window by window as they are read, and their number.

    A document sees what is before it in its window only if it is its own.
    """
    weights, total, count, T = params(run, one()), 0.0, 0, run.data.T
    apply = jax.jit(models.LM(run.model).apply)
    stream = np.concatenate(list(dataset.heldout[0].blocks()))
    for start in range(0, len(stream) - 1, T):
        window = stream[start : start + T + 1].astype(np.int32)
        cuts = [0, *(np.flatnonzero(window[1:-1] == dataset.tokenizer.eot) + 1).tolist(), len(window) - 1]
        for a, b in zip(cuts, cuts[1:]):
            logits = np.asarray(apply({"params": weights}, padded(window[None, a:b], T)), np.float64)
            for logits_V, label in zip(logits[0], window[a + 1 : b + 1]):
                total += math.log(np.exp(logits_V - logits_V.max()).sum()) + logits_V.max() - logits_V[label]
                count += 1
    return total, count


def padded(tokens, T):
    """One shape, compiled once; causal attention does not see what follows."""
    return np.pad(tokens, ((0, 0), (0, T - tokens.shape[1])))


def test_every_held_out_token_counts_once(text, dataset):
    run = tiny.run(text)
    total, count = slow(run, dataset)
    assert count == dataset.heldout_tokens - 1
    scores = score(run, dataset, one())
    np.testing.assert_allclose(scores["loss"], total / count, rtol=1e-5)
    np.testing.assert_allclose(scores["perplexity"], math.exp(total / count), rtol=1e-4)
    size = sum(len(text.encode()) for text in dataset.heldout_texts())
    np.testing.assert_allclose(scores["bits_per_byte"], total / math.log(2) / size, rtol=1e-5)


# A batch of 8 rows in 2 parts is evaluated 4 rows at a time, so that it needs no more memory than training.
# A sample is the same rows there.
@pytest.mark.parametrize("mesh", [MeshConfig(2, 2, 2), MeshConfig(1, 4, 2, explicit=False)], ids=name)
def test_the_same_on_a_mesh(text, dataset, mesh):
    run = tiny.run(text, batch=8, accumulate=2, eval_tokens=1000)
    alone = score(run, dataset, one())
    there = score(run, dataset, make_mesh(mesh))
    assert alone.keys() == there.keys()
    np.testing.assert_allclose([*there.values()], [*alone.values()], rtol=1e-5)


def test_a_sample_is_of_every_source_whatever_their_order_and_the_batch(tmp_path, monkeypatch):
    """A model that pays 3 nats for a digit and 1 for anything else, on a source of digits and one without."""

    def pays(run):
        def step(params, frozen, batch):
            digit = (batch["labels"] >= ord("0")) & (batch["labels"] <= ord("9"))
            nll = (batch["weights"] * (1 + 2 * digit)).sum()
            return {"total": nll, "nll": nll, "weight": batch["weights"].sum()}

        return step

    monkeypatch.setattr(room, "make_eval_step", pays)
    monkeypatch.setattr(room.jax, "jit", lambda f: f)
    places = [tmp_path / "letters.txt", tmp_path / "digits.txt"]
    for place, line in zip(places, ("to be or not to be\n", "3141592653\n")):
        place.write_text(line * 300)
    sources = tuple(data.Source(str(place)) for place in places)

    def scores(places, **changes):
        run = tiny.run(eval_tokens=640, **changes)
        prepared = data.prepare(dataclasses.replace(run.data, sources=places))
        return room.make_evaluator(run, prepared, one())({}), prepared.heldout_rows(run.eval_tokens)

    (first, heldout), (second, _) = scores(sources), scores(sources[::-1], batch=8, accumulate=2)
    assert first == second
    assert first["bits_per_byte"] == pytest.approx(first["loss"] * heldout.labels / heldout.bytes / math.log(2))
    alone = [scores((source,))[0]["loss"] for source in sources]
    share = 10 / 29  # of the bytes that are digits' lines, to a row
    assert first["loss"] == pytest.approx(alone[0] * (1 - share) + alone[1] * share, abs=0.1)
    assert alone[0] == 1 and alone[1] > 2.7 and 1.4 < first["loss"] < 1.9


def test_a_sample_of_separators_alone_has_no_bits_per_byte(dataset, monkeypatch):
    step = {"total": 2.0, "nll": 2.0, "weight": 1.0}
    monkeypatch.setattr(room, "make_eval_step", lambda run: lambda params, frozen, batch: step)
    monkeypatch.setattr(room.jax, "jit", lambda f: f)
    monkeypatch.setattr(type(dataset.heldout_rows()), "bytes", 0.0)
    scores = room.make_evaluator(tiny.run(), dataset, one())({})
    assert math.isnan(scores["bits_per_byte"]) and scores["loss"] > 0


def test_a_hopeless_model_has_a_perplexity_too(text, dataset):
    run = tiny.run(text)
    weights = params(run, one())
    weights = weights | {"embed": {"table": weights["embed"]["table"] * 1e6}}
    with jax.set_mesh(one()):
        scores = room.make_evaluator(run, dataset, one())(weights)
    assert scores["loss"] > 700 and math.isfinite(scores["perplexity"])


def test_samples_depend_on_step_and_weights_only():
    run, tokenizer = tiny.run(prompts=("to be", "ä", "")), ByteTokenizer()
    weights = params(run, one())
    with jax.set_mesh(one()):
        texts = room.sample(run, weights, tokenizer, 3)
        assert texts == room.sample(run, weights, tokenizer, 3)
        assert texts != room.sample(run, weights, tokenizer, 4)
    assert [text.startswith(prompt) for text, prompt in zip(texts, run.prompts)] == [True] * 3
    assert len(set(texts)) == 3


def test_rows_of_the_model_that_are_no_token_are_not_drawn(monkeypatch):
    """A model of 2000 rows over bytes: nearly all it would draw means nothing."""
    run, drawn = tiny.run(model=tiny.model(V=2000)), []
    monkeypatch.setattr(room, "generate", lambda *args, **how: drawn.append(generate(*args, **how)) or drawn[-1])
    with jax.set_mesh(one()):
        room.sample(run, params(run, one()), ByteTokenizer(), 0)
    ((new_BT, _),) = drawn
    assert new_BT.size == run.sample_tokens and new_BT[0, 0] >= 0 and (new_BT < ByteTokenizer().V).all()


def test_table(dataset):
    table = data.score_table(dataset, {"bits_per_byte": 1.25}).splitlines()
    assert table[0] == f"held-out bits per byte ({dataset.heldout_bytes:,} bytes of text):"
    rows = {line[:14].strip(): float(line[14:]) for line in table[1:]}
    assert list(rows) == ["uniform", "unigram", "zlib", "this model"]
    assert rows["uniform"] == 8 and rows["this model"] == 1.25 and 0 < rows["zlib"] < rows["unigram"] < 8


def test_table_of_a_sample_says_its_share(dataset):
    first = data.score_table(dataset, {"bits_per_byte": 1.25}, 320).splitlines()[0]
    labels, whole = 320, dataset.heldout_tokens - 1
    assert first == (
        f"held-out bits per byte ({dataset.heldout_bytes:,} bytes of text; "
        f"this model on a sample of {labels:,} tokens, {labels / whole:.0%} of it):"
    )


def test_table_of_a_large_text(dataset, monkeypatch):
    monkeypatch.setattr(sys.modules["jaxlm.data.baselines"], "BASELINE_TOKENS", 10)
    assert [line.split()[0] for line in data.score_table(dataset, {"bits_per_byte": 1.0}).splitlines()[1:]] == [
        "uniform",
        "this",
    ]
