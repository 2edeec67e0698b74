import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm import compat, models, sharding
from jaxlm import decode as decoding
from jaxlm.decode import Choice, Greedy, RepetitionPenalty, Sampler, Temperature, generate, prefill, prepare, results
from jaxlm.errors import UserError
from jaxlm.sharding import MeshConfig
from tests.decode.models import DYNAMIC, MODELS, V, full_logits, params, prompts
from tests.meshes import lies, name, on

RNG = np.random.default_rng(0)
T, NEW = 9, 20
TOKENS, MASK = prompts(T, 0, 3, T - 1)
KEY = jax.random.key(7)


def penalised(row_V, said, p):
    """Slow and obvious, of one row."""
    row_V = row_V.copy()
    for i in set(map(int, said)):
        row_V[i] = row_V[i] / np.float32(p) if row_V[i] > 0 else row_V[i] * np.float32(p)
    return row_V


@pytest.mark.parametrize("p", [1.2, 3, 0.5, 1])
def test_what_was_said_is_less_likely_once(p):
    """Prompts without their padding, then choices, of which one row has stopped; logits that another excluded stay."""
    sampler, said = RepetitionPenalty(p), [list(row[mask > 0]) for row, mask in zip(TOKENS, MASK)]
    state = sampler.start(jnp.asarray(TOKENS), jnp.asarray(MASK), V)
    assert state.shape == (3, V) and state.dtype == bool
    for chosen in ([4, 9, -1], [4, 31, -1], [0, 0, 7]):
        logits = RNG.normal(size=(3, V)).astype(np.float32)
        logits[:, ::5], logits[:, 1] = -np.inf, 0
        found = jax.jit(sampler.filter)(logits, state)
        np.testing.assert_allclose(found, [penalised(*row, p) for row in zip(logits, said)], rtol=1e-6)
        state = jax.jit(sampler.after)(state, Choice(jnp.array(chosen)))
        said = [[*row, token] if token >= 0 else row for row, token in zip(said, chosen)]
    np.testing.assert_array_equal(state, [[i in row for i in range(V)] for row in said])


@pytest.mark.parametrize("model", ["rope", *list(DYNAMIC)[:1]])
def test_generated_text_is_that_of_the_loop_by_hand(model):
    """Where the text is read anew, what was said is not forgotten; log probabilities are the model's own."""
    config, tree = prepare((MODELS | DYNAMIC)[model], params(model))
    found, logprobs = generate(
        config, tree, TOKENS, mask_BT=MASK, max_new_tokens=NEW, sampler=RepetitionPenalty(1.5) | Greedy(), key=KEY
    )
    plain, _ = generate(config, tree, TOKENS, mask_BT=MASK, max_new_tokens=NEW, sampler=Greedy(), key=KEY)
    assert (found != plain).any()
    repeats = lambda new: sum(NEW - len(set(row)) for row in new.tolist())
    assert repeats(found) < repeats(plain)
    if model in MODELS:
        texts, mask = np.concatenate([TOKENS, found], 1), np.concatenate([MASK, np.ones_like(found)], 1)
        logits_BTV = full_logits(model, texts, mask)[:, T - 1 : -1]
        for b, t in np.ndindex(found.shape):
            said = texts[b, : T + t][mask[b, : T + t] > 0]
            assert found[b, t] == penalised(logits_BTV[b, t], said, 1.5).argmax()
        expected = np.asarray(jax.nn.log_softmax(logits_BTV))
        np.testing.assert_allclose(logprobs, np.take_along_axis(expected, found[..., None], -1)[..., 0], atol=1e-4)
    else:
        state, how = prefill(config, tree, TOKENS, MASK, NEW, RepetitionPenalty(1.5), KEY, ())
        state = decoding.decode(how, tree, state, NEW)
        said = [set(row[mask > 0]) | set(new) for row, mask, new in zip(TOKENS, MASK, np.asarray(results(state)[0]))]
        np.testing.assert_array_equal(state.sampler_state, [[i in row for i in range(V)] for row in said])


def test_no_penalty_is_no_sampler():
    assert jaxlm.RepetitionPenalty is RepetitionPenalty
    config, tree = prepare(MODELS["rope"], params("rope"))
    run = functools.partial(generate, config, tree, TOKENS, mask_BT=MASK, max_new_tokens=NEW, key=KEY)
    np.testing.assert_array_equal(run(sampler=RepetitionPenalty(1.0))[0], run(sampler=Sampler())[0])


@pytest.mark.parametrize("config", [MeshConfig(2, 2, 2), MeshConfig(2, 2, 2, explicit=False)], ids=name)
def test_what_was_said_lies_with_its_row(config):
    """Of three rows on a mesh that does not divide them."""
    how = {"max_new_tokens": NEW, "sampler": Temperature(0.7) | RepetitionPenalty(1.2), "key": KEY}
    expected, _ = generate(*prepare(MODELS["rope"], params("rope")), TOKENS, mask_BT=MASK, **how)
    with on(config):
        mesh, (shapes, axes) = compat.concrete_mesh(), models.abstract(MODELS["rope"])
        tree = jax.device_put(params("rope"), sharding.shardings(axes, shapes, mesh))
        model, layers = prepare(MODELS["rope"], tree)
        state, static = prefill(model, layers, TOKENS, MASK, stop=(), **how)
        state = decoding.decode(static, layers, state, NEW)
        _, seen = state.sampler_state
        assert not config.explicit or lies(seen, "batch", None)
        found = np.asarray(results(state)[0])[:3, :NEW]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("p", [0, -1, float("nan"), float("inf")])
def test_mistakes(p):
    with pytest.raises(UserError, match=r"repetition penalty must be above 0 \(1 is none\)"):
        RepetitionPenalty(p)
