import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from jaxlm.decode import (
    Beam,
    Draft,
    Greedy,
    Lookup,
    RepetitionPenalty,
    Temperature,
    TopK,
    early_layers,
    generate,
    prepare,
    speculative,
)
from jaxlm.errors import UserError
from tests.decode.models import DYNAMIC, MODELS, V, full_logits, params, prompts

T, NEW = 9, 20
TOKENS, MASK = prompts(T, 0, 3, T - 1)


def drafts(name):
    config, tree = prepare(MODELS[name], params(name))
    return config, tree, {"lookup": Lookup(3, 2), "early": early_layers(config, tree, len(config.layers[0].blocks), 2)}


@pytest.mark.parametrize(
    "name, kind",
    [("rope", "early"), ("windows", "lookup"), ("linear", "lookup"), ("windows", "early"), ("linear", "early")],
)
def test_greedy_is_plain_greedy_token_for_token(name, kind):
    """Attention, rings that wrap, a recurrence; rows of different lengths that accept differently and stop."""
    config, tree, draft = drafts(name)
    how = {"mask_BT": MASK, "max_new_tokens": NEW, "sampler": RepetitionPenalty(1.1) | Greedy()}
    expected = generate(config, tree, TOKENS, **how)
    stop = (int(expected[0][0, 11]),)
    expected = generate(config, tree, TOKENS, stop=stop, **how)
    found, logprobs, rate = speculative(config, tree, TOKENS, draft[kind], stop=stop, **how)
    np.testing.assert_array_equal(found, expected[0])
    np.testing.assert_allclose(logprobs, expected[1], atol=1e-4)
    assert 1 <= rate <= draft[kind].k + 1
    assert rate > 1 or (name, kind) == ("linear", "early")  # rows keep step there, and random layers rarely agree


@pytest.mark.parametrize("name, kind", [("rope", "lookup"), ("linear", "early")])
def test_samples_are_distributed_as_the_model_s(name, kind):
    """8,192 draws of three tokens against their exact probabilities."""
    config, tree, draft = drafts(name)
    n, prompt = 2048, np.array([3, 7, 3, 7, 9, 3, 7, 3], np.int32)
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(4):
        found, _, _ = speculative(
            *(config, tree, np.tile(prompt, (n, 1)), dataclasses.replace(draft[kind], k=2)),
            max_new_tokens=3,
            sampler=Temperature(2.0) | TopK(3),
            key=jax.random.key(seed),
        )
        for row in found.tolist():
            counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    expected = _exact(name, prompt, ())
    assert set(counts) <= set(expected)
    paths = [path for path in expected if expected[path] * 4 * n > 5]
    observed, theirs = (np.array([of.get(path, 0) for path in paths], float) for of in (counts, expected))
    assert len(paths) > 12
    assert chisquare(observed, theirs / theirs.sum() * observed.sum()).pvalue > 1e-4


def _exact(name, prompt, path):
    """The probability of each continuation to three tokens."""
    if len(path) == 3:
        return {path: 1.0}
    texts = np.concatenate([prompt, path])[None].astype(np.int32)
    padded = np.pad(texts, ((0, 0), (0, 3 - len(path))))
    logits_V = full_logits(name, padded, np.ones_like(padded))[0, texts.shape[1] - 1] / 2
    best = np.argsort(-logits_V)[:3]
    p = np.exp(logits_V[best].astype(float))
    deeper = [(q, _exact(name, prompt, (*path, int(token)))) for token, q in zip(best, p / p.sum())]
    return {rest: q * share for q, found in deeper for rest, share in found.items()}


def test_a_lookup_goes_on_as_the_longest_latest_match_did():
    text = [5, 1, 2, 3, 8, 2, 3, 9, 1, 2, 3, 0, 0, 0, 0]
    lookup = Lookup(3, 3)
    run = lambda text, start, end: np.asarray(lookup(jnp.array([text]), jnp.array([start]), jnp.array([end])))[
        0
    ].tolist()
    assert run(text, 0, 10) == [8, 2, 3]  # 1 2 3 before, not the later 2 3
    assert run(text, 4, 10) == [9, 1, 2]  # the text begins at 8
    assert run([4, 4, 4, 0, 0], 0, 2) == [4, 4, 4]
    assert run([7, 1, 2, 1, 2, 0, 0, 0], 0, 4) == [1, 2, 1]
    slow = np.random.default_rng(0).integers(0, 3, (40, 12))
    for row, end in itertools.product(slow.tolist(), (3, 8)):
        sizes = [next((j for j in range(3) if i - j < 0 or row[i - j] != row[end - j]), 3) for i in range(end)]
        best = max(range(end), key=lambda i: (sizes[i], i))
        assert run(row, 0, end) == [row[best + 1 + j % (end - best)] for j in range(3)]


def test_mistakes():
    config, tree, _ = drafts("rope")
    other = Draft(dataclasses.replace(config, V=V + 1), tree)
    with pytest.raises(UserError, match="the draft model has 33 tokens, the model 32: they must be the same"):
        speculative(config, tree, TOKENS, other)
    with pytest.raises(UserError, match="beam search has no draft"):
        speculative(config, tree, TOKENS, Lookup(), sampler=Beam(2))
    with pytest.raises(UserError, match="a draft must be Lookup"):
        speculative(config, tree, TOKENS, "lookup")
    with pytest.raises(UserError, match="k of a draft must be at least 1"):
        Lookup(0)
    turning = prepare(DYNAMIC["dynamic ntk"], params("dynamic ntk"))
    with pytest.raises(UserError, match="the rotations of this model change within the text"):
        speculative(*turning, TOKENS, Lookup())
    windows = drafts("windows")[:2]
    with pytest.raises(UserError, match="1 layers end within a period of 2: choose a multiple"):
        early_layers(*windows, 1)
