"""Beam search against a slow one that reads every beginning whole, and remembers nothing."""

import functools

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm import compat, models, sharding
from jaxlm.decode import (
    Beam,
    Greedy,
    RepetitionPenalty,
    Temperature,
    VocabularyMask,
    beam_search,
    generate,
    plain_beam_search,
    prefill,
    prepare,
)
from jaxlm.errors import UserError
from jaxlm.sharding import MeshConfig
from tests.decode.models import DYNAMIC, MODELS, V, full_logits, params, prompts
from tests.meshes import name, on

T, NEW, A = 9, 10, 3
TOKENS, MASK = prompts(T, 0, 3, T - 1)
STOP = (5, 11, 17, 29)


def search(model="rope", beam=None, stop=(), new=NEW, **more):
    config, tree = prepare(MODELS[model], params(model))
    beam = beam or Beam(A)
    return beam_search(config, tree, TOKENS, mask_BT=MASK, sampler=beam, max_new_tokens=new, stop=stop, **more)


def next_logprobs(model, row, texts):
    """Of new tokens `texts` (lists of one length) after the prompt of `row`, the next one's log probabilities."""
    room = T + NEW
    tokens, mask = np.zeros((len(texts), room), np.int32), np.zeros((len(texts), room), np.int32)
    real = TOKENS[row][MASK[row] > 0]
    for i, text in enumerate(texts):
        whole = [*real, *text]
        tokens[i, : len(whole)], mask[i, : len(whole)] = whole, 1
    wide = lambda x: np.pad(x, ((0, A - len(x)), (0, 0)), mode="edge")  # one shape
    logits = full_logits(model, wide(tokens), wide(mask))[: len(texts), len(real) + len(texts[0]) - 1].astype(float)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def slow(logprobs, stop, penalty, early, new=NEW):
    """[(score, tokens)] of the best A texts, as lists and by the words of the definition."""
    running, ended, done = [(0.0, ())], [], False
    for n in range(1, new + 1):
        rows = logprobs([text for _, text in running])
        every = [(total + row[v], (*text, v)) for (total, text), row in zip(running, rows) for v in range(V)]
        every = sorted(every, reverse=True)[: max(2, 1 + len(stop)) * A]
        stops = [text[-1] in stop or n == new for _, text in every]
        ended += [(total / n**penalty, text) for (total, text), end in zip(every[:A], stops) if end and not done]
        ended = sorted(ended, reverse=True)[:A]
        running = [one for one, end in zip(every, stops) if not end][:A]
        if n == new or done:
            break
        longest = new if early == "never" and penalty > 0 else n
        hope = running[0][0] / longest**penalty
        done = len(ended) == A and (early is True or hope <= ended[-1][0])
    return ended


def assert_same(found, model, stop, penalty, early, new=NEW):
    for row in range(len(TOKENS)):
        wanted = slow(functools.partial(next_logprobs, model, row), stop, penalty, early, new)
        got = [tuple(int(i) for i in text if i >= 0) for text in found.tokens_BAT[row]]
        assert got == [text for _, text in wanted]
        np.testing.assert_allclose(found.score_BA[row], [score for score, _ in wanted], atol=1e-4)


@pytest.mark.parametrize("model", ["rope", "linear", "windows", "buckets"])
def test_every_kind_of_state(model):
    assert_same(search(model, stop=STOP), model, STOP, 1.0, False)


@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.5, -1.0])
def test_penalties_and_ends(penalty, early):
    found = search(beam=Beam(A, penalty, early), stop=STOP)
    assert_same(found, "rope", STOP, penalty, early)
    assert np.ptp((found.tokens_BAT >= 0).sum(-1)) > 0 or penalty > 1  # some texts are shorter


def test_without_an_end_it_is_the_form_of_the_lectures():
    found = search()
    for row in range(len(TOKENS)):
        logprobs = lambda texts_AT, row=row: next_logprobs("rope", row, [list(text[1:]) for text in texts_AT])
        plain = plain_beam_search(logprobs, [-1], A, NEW)[-1]
        np.testing.assert_array_equal(found.tokens_BAT[row], plain.texts_AT[:, 1:])
        np.testing.assert_allclose(found.score_BA[row] * NEW, plain.total_A, atol=1e-3)
    np.testing.assert_allclose(found.logprobs_BAT.sum(-1) / NEW, found.score_BA, atol=1e-5)


def test_one_beam_is_greedy():
    config, tree = prepare(MODELS["rope"], params("rope"))
    new, logprobs = generate(config, tree, TOKENS, mask_BT=MASK, max_new_tokens=NEW, sampler=Greedy(), stop=(STOP[0],))
    found = search(beam=Beam(1, early_stopping=True), stop=(STOP[0],))
    np.testing.assert_array_equal(found.tokens_BAT[:, 0], new)
    np.testing.assert_allclose(found.logprobs_BAT[:, 0], logprobs, atol=1e-5)


def test_samplers_before_it_filter():
    """Banned tokens never occur; what a penalty remembers goes with its beam; temperature scales every total."""
    assert search(beam=VocabularyMask(7) | Beam(A)).tokens_BAT.max() < 7
    strong = search(beam=RepetitionPenalty(1e6) | Beam(A)).tokens_BAT
    for row in range(len(TOKENS)):
        said = set(TOKENS[row][MASK[row] > 0].tolist())
        for text in strong[row].tolist():
            assert len({*text}) == NEW and not said & {*text}
    cold, warm = search(beam=Temperature(2.0) | Beam(A)), search()
    np.testing.assert_array_equal(cold.tokens_BAT, warm.tokens_BAT)
    np.testing.assert_allclose(cold.score_BA * 2, warm.score_BA, atol=1e-5)


@pytest.mark.parametrize("config", [MeshConfig(2, 2, 2), MeshConfig(2, 2, 2, explicit=False)], ids=name)
def test_on_a_mesh(config):
    """Three rows, which the mesh does not divide, and a text that ends early."""
    wanted = search("windows", RepetitionPenalty(1.2) | Beam(A), STOP)
    with on(config):
        shapes, axes = models.abstract(MODELS["windows"])
        tree = jax.device_put(params("windows"), sharding.shardings(axes, shapes, compat.concrete_mesh()))
        layout, tree = prepare(MODELS["windows"], tree)
        found = beam_search(
            layout, tree, TOKENS, mask_BT=MASK, sampler=RepetitionPenalty(1.2) | Beam(A), max_new_tokens=NEW, stop=STOP
        )
    np.testing.assert_array_equal(found.tokens_BAT, wanted.tokens_BAT)
    np.testing.assert_allclose(found.score_BA, wanted.score_BA, atol=1e-4)


def test_what_cannot_be():
    with pytest.raises(UserError, match="33 beams are more than the 32 tokens of the vocabulary"):
        search(beam=Beam(V + 1))
    with pytest.raises(UserError, match="put Beam last"):
        search(beam=Beam(2) | Temperature(2.0) | Beam(2))
    with pytest.raises(UserError, match="number of beams must be at least 1"):
        Beam(0)
    with pytest.raises(UserError, match="early_stopping must be True, False or"):
        Beam(2, early_stopping="always")
    with pytest.raises(UserError, match="length_penalty must be finite"):
        Beam(2, float("nan"))
    config, tree = prepare(MODELS["rope"], params("rope"))
    with pytest.raises(UserError, match="not a token at a time"):
        prefill(config, tree, TOKENS, MASK, NEW, Beam(2), None, ())
    config, tree = prepare(DYNAMIC["dynamic ntk"], params("dynamic ntk"))
    with pytest.raises(UserError, match="rotations of this model change within 9 to 19 tokens"):
        beam_search(config, tree, TOKENS, mask_BT=MASK, sampler=jaxlm.Beam(2), max_new_tokens=NEW)
