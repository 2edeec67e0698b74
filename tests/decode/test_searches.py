"""Contrastive search, diverse and sampled beams: against transformers on goldens (scripts/make_search_goldens.py),
and against slow ones that read every beginning whole."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxlm
from jaxlm import compat, models, sharding
from jaxlm.decode import (
    Beam,
    Contrastive,
    Greedy,
    NoRepeatNgram,
    RepetitionPenalty,
    beam_search,
    contrastive_search,
    generate,
    prepare,
)
from jaxlm.errors import UserError
from jaxlm.sharding import MeshConfig
from tests.convert import golden
from tests.decode.models import DYNAMIC, MODELS, V, _full, params, prompts
from tests.meshes import name, on

GOLDEN = dict(np.load(Path(__file__).parents[1] / "goldens_decode" / "searches.npz"))
SAMPLERS = {
    "contrastive": Contrastive(4, 0.6),
    "contrastive_penalised": RepetitionPenalty(1.3) | Contrastive(6, 0.4),
    "diverse": Beam(6, groups=3, diversity_penalty=0.7),
    "diverse_single": Beam(3, 2.0, groups=3, diversity_penalty=1.5),
    "diverse_ended": NoRepeatNgram(2) | Beam(4, 0.0, True, groups=2, diversity_penalty=0.5),
}
ENDED = "contrastive_penalised", "diverse_ended"
T, NEW, STOP = 9, 10, (5, 11, 17, 29)
TOKENS, MASK = prompts(T, 0, 3, T - 1)


@pytest.fixture(params=["gpt2", "llama_linear"], scope="module")
def model(request):
    return request.param


@pytest.fixture(scope="module")
def lm(model, tmp_path_factory):
    return jaxlm.load(golden.write(tmp_path_factory.mktemp(model), model))


@pytest.mark.parametrize("case", SAMPLERS)
def test_as_transformers(model, lm, case):
    e, wanted = golden.expected(model), GOLDEN[f"{model}/{case}"]
    stop = {"gpt2": 48, "llama_linear": 20}[model] if case in ENDED else None
    lm.stops = ()
    out = lm.generate(e["prompts"], wanted.shape[-1], SAMPLERS[case], stop=stop, mask_BT=e["prompts_mask"])
    np.testing.assert_array_equal(out.tokens, wanted[:, 0])
    if "diverse" in case:
        np.testing.assert_array_equal(out.alternatives[0], wanted)
        np.testing.assert_allclose(out.alternatives[1], GOLDEN[f"{model}/{case}_scores"], atol=1e-4)
        assert len(np.unique(wanted[0], axis=0)) > 1


def test_sampled_beams_are_distributed_as_those_of_transformers(model, lm):
    """Two tokens by two beams, 4,000 draws of each: chi-square of two samples, over what occurs often enough."""
    e, theirs = golden.expected(model), GOLDEN[f"{model}/sampled"]
    row = e["prompts"][:1].repeat(theirs.sum(), 0)
    tokens = lm.generate(row, 2, Beam(2, sampled=True), key=jax.random.key(1)).tokens
    ours = np.bincount(tokens[:, 0] * 61 + tokens[:, 1], minlength=61 * 61)
    often = ours + theirs >= 10
    rest = [np.append(x[often], x[~often].sum()) for x in (ours, theirs)]
    chi2, cells = np.sum((rest[0] - rest[1]) ** 2 / (rest[0] + rest[1])), len(rest[0]) - 1
    assert cells > 30 and abs(chi2 - cells) < 4 * np.sqrt(2 * cells)
    plain = np.bincount(ours.argsort()[::-1][:1], minlength=len(ours)) * ours.sum()
    assert np.sum((plain - theirs) ** 2 / np.maximum(plain + theirs, 1)) > 1000  # such a test can fail


def reading(model, row, text):
    """Log probabilities (n, V) and hidden states (n, D) of a row's prompt and a text after it, without a cache."""
    room = T + NEW
    whole = np.array([*TOKENS[row][MASK[row] > 0], *text])
    tokens, mask = np.zeros((1, room), np.int32), np.zeros((1, room), np.int32)
    tokens[0, : len(whole)], mask[0, : len(whole)] = whole, 1
    logits = np.asarray(_full(MODELS[model], params(model), tokens, mask), float)[0, : len(whole)]
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True)), _hidden(model, tokens, mask)[: len(whole)]


def _hidden(model, tokens, mask):
    return np.asarray(_hidden_states(MODELS[model], params(model), tokens, mask), float)[0]


@functools.partial(jax.jit, static_argnums=0)
def _hidden_states(config, params, tokens, mask):
    args = tokens, np.arange(tokens.shape[1])[None], mask
    return config.build().apply({"params": params}, *args, method="forward").hidden_BTD


def slow_contrastive(model, row, k, a, stop):
    text = []
    while len(text) < NEW and not (text and text[-1] in stop):
        logprobs, hidden = reading(model, row, text)
        p, best = np.exp(logprobs[-1]), (-np.inf, None)
        unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
        for v in np.argsort(-p)[:k]:
            new = unit(reading(model, row, [*text, v])[1][-1])
            best = max(best, ((1 - a) * p[v] - a * (unit(hidden) @ new).max(), v))
        text.append(int(best[1]))
    return text


@pytest.mark.parametrize("model", ["rope", "windows", "linear"])
def test_contrastive_search_by_its_definition(model):
    config, tree = prepare(MODELS[model], params(model))
    how = {"mask_BT": MASK, "max_new_tokens": NEW, "stop": STOP[:1]}
    found, logprobs = contrastive_search(config, tree, TOKENS, sampler=Contrastive(3, 0.5), **how)
    for row in range(len(TOKENS)):
        text = slow_contrastive(model, row, 3, 0.5, STOP[:1])
        assert [i for i in found[row].tolist() if i >= 0] == text
        wanted = reading(model, row, text)[0][-len(text) - 1 : -1]
        np.testing.assert_allclose(logprobs[row, : len(text)], wanted[range(len(text)), text], atol=1e-4)
    greedy, _ = generate(config, tree, TOKENS, sampler=Greedy(), **how)
    same, _ = contrastive_search(config, tree, TOKENS, sampler=Contrastive(3, 0.0), **how)
    np.testing.assert_array_equal(same, greedy)
    assert (found != greedy).any()


def slow_diverse(model, row, beam, stop):
    """[(score, tokens)] of all groups, as lists and by the words of the definition."""
    W = beam.A // beam.groups
    groups = [{"running": [(0.0, ())], "ended": [], "done": False} for _ in range(beam.groups)]
    for n in range(1, NEW + 1):
        said = np.zeros(V)
        for group in groups:
            if group["done"]:
                continue
            each = [(total, text, reading(model, row, text)[0][-1]) for total, text in group["running"]]
            every = [
                (t + lp[v] - beam.diversity_penalty * said[v], (*text, v)) for t, text, lp in each for v in range(V)
            ]
            every = sorted(every, reverse=True)[: (1 + len(stop)) * W]
            ends = [text[-1] in stop or n == NEW for _, text in every]
            new = [(total / n**beam.length_penalty, text) for (total, text), end in zip(every[:W], ends) if end]
            group["ended"] = sorted(group["ended"] + new, reverse=True)[:W]
            group["running"] = [one for one in every if one[1][-1] not in stop][:W]
            for _, text in group["running"]:
                said[text[-1]] += 1
            if n < NEW and len(group["ended"]) == W:
                group["done"] = group["running"][0][0] / n**beam.length_penalty <= group["ended"][-1][0]
    return sorted((one for group in groups for one in group["ended"]), reverse=True)


def test_diverse_beams_by_their_definition():
    beam = Beam(4, 0.8, groups=2, diversity_penalty=0.9)
    config, tree = prepare(MODELS["rope"], params("rope"))
    how = {"mask_BT": MASK, "max_new_tokens": NEW, "stop": STOP}
    found = beam_search(config, tree, TOKENS, sampler=beam, **how)
    for row in range(len(TOKENS)):
        wanted = slow_diverse("rope", row, beam, STOP)
        assert [tuple(int(i) for i in text if i >= 0) for text in found.tokens_BAT[row]] == [x for _, x in wanted]
        np.testing.assert_allclose(found.score_BA[row], [score for score, _ in wanted], atol=1e-4)
    single = dataclasses.replace(beam, A=2, groups=1, diversity_penalty=0.0)
    plain = beam_search(config, tree, TOKENS, sampler=single, **how)
    both = beam_search(config, tree, TOKENS, sampler=dataclasses.replace(beam, diversity_penalty=0.0), **how)
    np.testing.assert_array_equal(both.tokens_BAT[:, ::2], plain.tokens_BAT)  # two groups of the same two


@pytest.mark.parametrize("config", [MeshConfig(2, 2, 2), MeshConfig(2, 2, 2, explicit=False)], ids=name)
def test_on_a_mesh(config):
    """Three rows, which the mesh does not divide, and a text that ends early."""
    how = {"mask_BT": MASK, "max_new_tokens": NEW, "stop": STOP}
    diverse, drawn = Beam(4, groups=2, diversity_penalty=0.9), Beam(2, sampled=True)

    def all_of(tree):
        layout, tree = prepare(MODELS["windows"], tree)
        search = contrastive_search(layout, tree, TOKENS, sampler=RepetitionPenalty(1.2) | Contrastive(3), **how)[0]
        return search, *(beam_search(layout, tree, TOKENS, sampler=one, **how).tokens_BAT for one in (diverse, drawn))

    wanted = all_of(params("windows"))
    with on(config):
        shapes, axes = models.abstract(MODELS["windows"])
        found = all_of(jax.device_put(params("windows"), sharding.shardings(axes, shapes, compat.concrete_mesh())))
    jax.tree.map(np.testing.assert_array_equal, found[:2], wanted[:2])
    assert found[2].shape == wanted[2].shape  # the mesh has more rows, and other draws


def test_what_cannot_be():
    for wrong, line in (
        ({"groups": 2}, "3 beams cannot be divided into 2 groups"),
        ({"groups": 0}, "the groups of beams must be at least 1"),
        ({"diversity_penalty": 1.0}, "diversity_penalty is between groups"),
        ({"groups": 3, "diversity_penalty": -1.0}, "diversity_penalty must be finite and not below 0"),
        ({"sampled": 1}, "sampled must be True or False"),
    ):
        with pytest.raises(UserError, match=line):
            Beam(3, **wrong)
    with pytest.raises(UserError, match="top_k of contrastive search must be at least 2"):
        Contrastive(1)
    with pytest.raises(UserError, match=r"penalty_alpha must lie in \[0, 1\]"):
        Contrastive(4, 1.5)
    config, tree = prepare(MODELS["rope"], params("rope"))
    with pytest.raises(UserError, match="top_k=33 of contrastive search is more than the 32 tokens"):
        contrastive_search(config, tree, TOKENS, sampler=Contrastive(33))
    with pytest.raises(UserError, match="contrastive search chooses by whole texts, not a token at a time"):
        generate(config, tree, TOKENS, sampler=Contrastive())
    with pytest.raises(UserError, match="contrastive search chooses the tokens: put Contrastive last"):
        contrastive_search(config, tree, TOKENS, sampler=Contrastive() | Contrastive())
    config, tree = prepare(DYNAMIC["dynamic ntk"], params("dynamic ntk"))
    with pytest.raises(UserError, match="contrastive search does not read texts anew"):
        contrastive_search(config, tree, TOKENS, mask_BT=MASK, sampler=Contrastive(), max_new_tokens=NEW)
