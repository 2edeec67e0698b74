import dataclasses
import functools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import compat, sharding
from jaxlm.decode import (
    Greedy,
    Sampler,
    Temperature,
    cache,
    decode,
    generate,
    left_pad,
    loop,
    prefill,
    prepare,
    results,
)
from jaxlm.decode.prefill import first_pass
from jaxlm.decode.state import BUCKET
from jaxlm.errors import UserError
from jaxlm.models import LM, abstract
from jaxlm.models import lm as models
from jaxlm.nn import AttentionConfig, BlockConfig, Context, CrossAttentionConfig, Memory, MLPConfig
from jaxlm.sharding import MeshConfig
from tests.decode.models import DYNAMIC, MODELS, V, full_logits, lm, params, prompts
from tests.meshes import lies, name, on
from tests.weights import weights

T, NEW = 9, 20
TOKENS, MASK = prompts(T, 0, 3, T - 1)
KEY = jax.random.key(7)


def run(model="rope", tokens=TOKENS, mask=MASK, stacked=False, **how):
    config, tree = MODELS[model], params(model)
    if not stacked:
        config, tree = prepare(config, tree)
    how = {"max_new_tokens": NEW, "sampler": Sampler(), "key": KEY} | how
    return generate(config, tree, tokens, mask_BT=mask, **how)


def same(found, expected, rows=slice(None)):
    np.testing.assert_array_equal(found[0], expected[0][rows])
    np.testing.assert_allclose(found[1], expected[1][rows], atol=1e-5)


def start(model="rope", **how):
    """The state after the first token, and what `decode` needs with it."""
    config, tree = prepare(MODELS[model], params(model))
    given = {"max_new_tokens": NEW, "sampler": Sampler(), "key": KEY, "stop": ()} | how
    state, how = prefill(config, tree, TOKENS, MASK, **given)
    return state, how, tree


# What is generated ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model, stacked", [("rope", False), ("learned", False), ("windows", False), ("windows", True)])
def test_log_probabilities_are_those_of_the_full_forward(model, stacked):
    new_BT, logprobs_BT = run(model, stacked=stacked)
    assert new_BT.shape == logprobs_BT.shape == (3, NEW)
    assert new_BT.dtype == np.int32 and logprobs_BT.dtype == np.float32
    assert len(np.unique(new_BT)) > 8  # many different texts
    texts_BT = np.concatenate([TOKENS, new_BT], 1)
    logits_BTV = full_logits(model, texts_BT, np.concatenate([MASK, np.ones_like(new_BT)], 1))[:, T - 1 : -1]
    expected_BTV = np.asarray(jax.nn.log_softmax(logits_BTV))
    expected_BT = np.take_along_axis(expected_BTV, new_BT[..., None], -1)[..., 0]
    np.testing.assert_allclose(logprobs_BT, expected_BT, rtol=0, atol=1e-5 * np.abs(logits_BTV).max())


@pytest.mark.parametrize("model", DYNAMIC)
def test_rotations_are_those_of_the_text_by_then(model):
    """Against the full forward of every beginning, whose longest text decides for all rows; some cross the length."""
    config, tree = prepare(DYNAMIC[model], params(model))
    new_BT, logprobs_BT = generate(config, tree, TOKENS, mask_BT=MASK, max_new_tokens=NEW, sampler=Greedy())
    texts_BT, real_BT = np.concatenate([TOKENS, new_BT], 1), np.concatenate([MASK, np.ones_like(new_BT)], 1)
    ends = np.arange(T, T + NEW)
    read_XBT = real_BT[None] * (np.arange(T + NEW) < ends[:, None])[:, None]
    at_XBT = np.maximum(np.cumsum(real_BT, -1) - 1, 0)[None] * read_XBT
    forward = jax.jit(jax.vmap(functools.partial(LM(DYNAMIC[model]).apply, {"params": params(model)}, texts_BT)))
    logits_XBTV = np.asarray(forward(at_XBT, read_XBT))
    logits_XBV = logits_XBTV[np.arange(NEW), :, ends - 1]
    np.testing.assert_array_equal(new_BT.T, logits_XBV.argmax(-1))
    expected_XB = np.asarray(jax.nn.log_softmax(logits_XBV)).max(-1)
    np.testing.assert_allclose(logprobs_BT.T, expected_XB, rtol=0, atol=1e-5 * np.abs(logits_XBV).max())
    early = logits_XBTV[-1, :, T - 1] - logits_XBTV[0, :, T - 1]  # what the prompt says when the text is long
    assert np.abs(early[:2]).max() > 1e-3
    state, how = prefill(config, tree, TOKENS, MASK, NEW, Greedy(), KEY, ())
    for until in (2, 3, 13, NEW):  # in pieces, some of which end where the text is read anew
        state = decode(how, tree, state, until)
    np.testing.assert_array_equal(results(state)[0][:, :NEW], new_BT)


def test_greedy_takes_the_likeliest_and_reports_the_models_own_probability():
    new_BT, logprobs_BT = run(sampler=Greedy())
    texts_BT = np.concatenate([TOKENS, new_BT], 1)
    logits_BTV = full_logits("rope", texts_BT, np.concatenate([MASK, np.ones_like(new_BT)], 1))[:, T - 1 : -1]
    np.testing.assert_array_equal(new_BT, logits_BTV.argmax(-1))
    np.testing.assert_allclose(logprobs_BT, np.asarray(jax.nn.log_softmax(logits_BTV)).max(-1), atol=1e-4)
    assert (logprobs_BT < -0.1).any()  # under the sampler itself it would be 0


def test_a_row_knows_nothing_of_the_others_nor_of_the_padding():
    whole = run()
    other, wide = TOKENS.copy(), np.zeros((3, 100), np.int32)
    other[:2] = (TOKENS[:2] + 1) % V
    same(run(tokens=np.where(MASK, TOKENS, 5)), whole)  # what stands in the padding
    found = run(tokens=other)
    same((found[0][2:], found[1][2:]), whole, slice(2, 3))
    wide[:, -T:] = TOKENS
    same(run(tokens=wide, mask=np.pad(MASK, ((0, 0), (100 - T, 0)))), whole)
    same(run(tokens=TOKENS[:1], mask=None), whole, slice(1))
    long = np.pad(TOKENS, ((0, 1), (61, 0))) % V  # with a neighbour of 70 tokens
    mask = np.pad(MASK, ((0, 1), (61, 0)))
    mask[3] = 1
    found = run(tokens=long, mask=mask)
    same((found[0][:3], found[1][:3]), whole)


def test_the_key_decides():
    first = run()
    same(run(), first)  # and is not used up
    assert (run(key=jax.random.key(8))[0] != first[0]).mean() > 0.3
    same(run(key=None), run(key=jax.random.key(0)))


def test_fewer_tokens_are_the_beginning_of_more():
    whole = run()
    for n in (1, 2, 19):
        found = run(max_new_tokens=n)
        same(found, (whole[0][:, :n], whole[1][:, :n]))


def test_in_pieces_as_at_once():
    state, how, tree = start()
    for until in (1, 4, 4, 2, 11, NEW):
        state = decode(how, tree, state, until)
        assert int(state.step) == max(until, 4 if until == 2 else 0)
    found = [np.asarray(x)[:, :NEW] for x in results(state)[:2]]
    same(found, run())
    state = decode(how, tree, state, 10**6)
    assert int(state.step) == how.new == BUCKET  # no further than there is room


def test_a_row_ends_with_its_stop_token_and_the_others_go_on():
    whole, logprobs = run()
    at = {token: np.argmax(whole == token, 1) for token in np.unique(whole)}
    at = {token: np.where((whole == token).any(1), i, NEW) for token, i in at.items()}
    stop = next(int(token) for token, i in at.items() if 0 < i.min() < NEW - 1 and i.max() == NEW)
    new_BT, logprobs_BT = run(stop=(stop, V - 1) if V - 1 not in whole else (stop,))
    for b, i in enumerate(at[stop]):
        np.testing.assert_array_equal(new_BT[b, : i + 1], whole[b, : i + 1])
        np.testing.assert_allclose(logprobs_BT[b, : i + 1], logprobs[b, : i + 1], atol=1e-5)
        assert (new_BT[b, i + 1 :] == -1).all() and (logprobs_BT[b, i + 1 :] == 0).all()


@pytest.mark.parametrize("config", [None, MeshConfig(8)], ids=name)
def test_it_is_over_when_every_row_has_stopped(config):
    """Also where rows were added to fill the mesh."""
    with on(config):
        first = np.asarray(results(start()[0])[0])[:, 0]
        state, how, tree = start(stop=tuple(int(i) for i in first[:3]))
        assert np.asarray(results(state)[2]).all()
        assert int(decode(how, tree, state, NEW).step) == 1


def test_texts_come_and_go_in_one_batch():
    """Of different lengths, at two rows of one loop; one ends and another takes its place."""
    rng = np.random.default_rng(1)
    config, tree = prepare(MODELS["windows"], params("windows"))
    texts = [rng.integers(0, V, (1, n)) for n in (9, 70, 20)]  # in caches of as many slots: of prompts and new tokens
    begin = lambda text, new: prefill(config, tree, text, None, new, Greedy(), KEY, ())
    alone = [begin(text, new)[0] for text, new in zip(texts, (128, 64, 128))]

    @jax.jit
    def join(state, b, new):
        put = lambda name: getattr(state, name).at[b].set(jnp.ravel(getattr(new, name))[0])
        rows = {name: put(name) for name in ("end", "start_B", "token_B", "done_B")}
        tokens_BT = state.tokens_BT.at[b, state.step - 1].set(new.token_B[0])
        caches = cache.put(state.caches, new.caches, b[None])
        return dataclasses.replace(state, caches=caches, tokens_BT=tokens_BT, **rows)

    state, how = begin(np.zeros((2, 5), int), 128)
    state = dataclasses.replace(state, end=jnp.full(2, state.end))
    state = join(join(state, jnp.int32(0), alone[0]), jnp.int32(1), alone[1])
    state = join(decode(how, tree, state, 6), jnp.int32(0), alone[2])
    found_BT = np.asarray(results(decode(how, tree, state, NEW))[0])
    expected = [generate(config, tree, text, max_new_tokens=NEW)[0][0] for text in texts]
    np.testing.assert_array_equal(found_BT[0, :5], expected[0][:5])
    np.testing.assert_array_equal(found_BT[0, 5:NEW], expected[2][: NEW - 5])
    np.testing.assert_array_equal(found_BT[1, :NEW], expected[1])


class Reader(nn.Module):
    """A language model that then attends to a memory."""

    c: models.LMConfig
    stacked: bool = True

    @nn.compact
    def forward(self, *args, memory_BSD=None, memory_mask_BS=None):
        lm = LM(self.c, self.stacked)
        nn.share_scope(self, lm)
        args, (caches, memory) = list(args), args[3] if len(args) > 3 else (None, Memory())
        args[3:4] = [caches] * (len(args) > 3)
        out = lm.forward(*args)
        cross = CrossAttentionConfig(H=2, K=8).build(1, "cross")
        context = Context(jnp.arange(1)[None], memory_BSD=memory_BSD, memory_mask_BS=memory_mask_BS)
        y_BTD, new = cross(out.hidden_BTD, context, memory)
        return dataclasses.replace(out, hidden_BTD=out.hidden_BTD + 3 * y_BTD, states=(out.states, new))


@pytest.mark.parametrize("model", ["rope", "dynamic ntk"])
def test_a_model_may_read_more_than_tokens_once(model, monkeypatch):
    """Keys and values of a memory are made with the prompt and kept; only then is the memory given, or where the text
    is read anew."""
    config, S = (MODELS | DYNAMIC)[model], 5
    memory_BSD = np.random.default_rng(0).normal(size=(3, S, 16)).astype(np.float32)
    mask_BS = np.arange(S) < np.array([[5], [2], [4]])
    inputs = {"memory_BSD": memory_BSD, "memory_mask_BS": mask_BS}
    empty = cache.empty
    monkeypatch.setattr(type(config), "build", lambda self, stacked=True: Reader(self, stacked))
    monkeypatch.setattr(cache, "empty", lambda *args, **more: (empty(*args, **more), Memory()))
    forward = functools.partial(Reader(config).apply, method="forward")
    tree = Reader(config).init(jax.random.key(0), TOKENS, **inputs, method="forward")["params"]
    tree = jax.tree.map(lambda x: 3 * x, sharding.unbox(tree))
    state, how = prefill(config, tree, TOKENS, MASK, NEW, Greedy(), KEY, (), inputs)
    kept = [np.asarray(x) for x in state.caches[1].value]
    state = decode(how, tree, state, NEW)
    new_BT, logprobs_BT = (np.asarray(x)[:, :NEW] for x in results(state)[:2])
    for before, after in zip(kept, state.caches[1].value, strict=True):
        np.testing.assert_array_equal(after, before)
    texts, real = np.concatenate([TOKENS, new_BT], 1)[:, :-1], np.concatenate([MASK, np.ones_like(new_BT)], 1)[:, :-1]
    at_BT = np.maximum(np.cumsum(real, 1) - 1, 0)
    expected = lambda **inputs: models.logits(config, forward({"params": tree}, texts, at_BT, real, **inputs))
    logits_BTV = np.asarray(expected(**inputs))[:, T - 1 :]
    first = 0 if model == "rope" else NEW - 1  # the length of the whole text is that of the last step only
    np.testing.assert_array_equal(new_BT[:, first:], logits_BTV.argmax(-1)[:, first:])
    found = np.asarray(jax.nn.log_softmax(logits_BTV)).max(-1)
    np.testing.assert_allclose(logprobs_BT[:, first:], found[:, first:], atol=1e-4)
    other = np.asarray(expected(memory_BSD=-memory_BSD, memory_mask_BS=mask_BS))[:, T - 1 :]
    assert (other.argmax(-1) != new_BT)[:, first:].any()


# Meshes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [MeshConfig(2, 2, 2), MeshConfig(2, 2, 2, explicit=False)], ids=name)
def test_the_same_on_a_mesh_that_does_not_divide_the_rows(config):
    expected = run("windows")
    with on(config):
        mesh, (shapes, axes) = compat.concrete_mesh(), abstract(MODELS["windows"])
        tree = jax.device_put(params("windows"), sharding.shardings(axes, shapes, mesh))
        layout, layers = prepare(MODELS["windows"], tree)
        found = generate(layout, layers, TOKENS, mask_BT=MASK, max_new_tokens=NEW, sampler=Sampler(), key=KEY)
        same(found, expected)
        if config.explicit:
            state, _ = prefill(layout, layers, TOKENS, MASK, NEW, Sampler(), KEY, ())
            for x in jax.tree.leaves(state.caches):
                assert lies(x, "batch", "heads", None, None)


# Laws -----------------------------------------------------------------------------------------------------------------


def test_one_compilation_a_bucket():
    sampler, rng = Temperature(0.77), np.random.default_rng(0)  # a sampler of no other test
    compiled = lambda: (first_pass._cache_size(), loop.run._cache_size())
    before = compiled()
    for T, new in [(1, 1), (9, 20), (33, 5), (64, 64), (2, 63)]:
        new_BT, _ = run(tokens=rng.integers(0, V, (3, T)), mask=None, max_new_tokens=new, sampler=sampler)
        assert new_BT.shape == (3, new) and (new_BT >= 0).all()
    assert compiled() == (before[0] + 1, before[1] + 1)
    run(tokens=rng.integers(0, V, (3, 65)), mask=None, sampler=sampler)
    assert compiled() == (before[0] + 2, before[1] + 2)


@pytest.mark.parametrize("each", [False, True], ids=["one end", "an end a row"])
@pytest.mark.parametrize("model", ["rope", "windows"])
def test_the_cache_is_written_in_place(model, each):
    state, how, tree = start(model)
    state = dataclasses.replace(state, end=jnp.full(3, state.end)) if each else state
    caches = jax.tree.leaves(state.caches)
    size = sum(x.nbytes for x in caches)
    assert size == 3 * cache.nbytes(MODELS[model], BUCKET + how.new, "float32")
    program = loop.run.lower(how, tree, state, NEW).compile()
    assert program.memory_analysis().alias_size_in_bytes >= size
    for x in caches:  # nor is one copied for every token within the loop
        shape = re.escape(f"f32[{','.join(map(str, x.shape))}]")
        assert re.findall(rf"= {shape}\S* parameter\(", program.as_text())
        assert re.findall(rf"= {shape}\S* copy\(", program.as_text()) == []
    decode(how, tree, state, NEW)
    assert all(x.is_deleted() for x in caches)


def test_a_token_reads_the_cache_where_it_stands():
    """No product turns it round first: beside a cache of 64 numbers a slot, a token needs some scores."""
    config = lm((1, (BlockConfig(AttentionConfig(H=2, K=64), MLPConfig(F=16)),)))
    config, tree = prepare(config, weights(LM(config), TOKENS))
    state, how = prefill(config, tree, TOKENS, None, 8192, Greedy(), KEY, ())
    memory = loop.run.lower(how, tree, state, NEW).compile().memory_analysis()
    assert memory.temp_size_in_bytes < jax.tree.leaves(state.caches)[0].nbytes / 2


def test_nothing_goes_to_the_host_while_decoding():
    state, how, tree = start()
    until = jnp.int32(NEW)
    program = loop.run.lower(how, tree, state, until).compile().as_text()
    assert re.findall("infeed|outfeed|callback| send| recv", program) == [] and " while(" in program
    with jax.transfer_guard("disallow"):
        state = decode(how, tree, state, until)
    assert int(state.step) == NEW


# Around it ------------------------------------------------------------------------------------------------------------


def test_prepare_casts_matrices_to_what_multiplies_them(monkeypatch):
    config = MODELS["learned"]
    bfloat16 = models.LMConfig(config.V, config.D, config.layers, config.positions, config.norm, dtype="bfloat16")
    for backend, dtype in (("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        found, layers = prepare(bfloat16, params("learned"))
        assert found.dtype == dtype and layers["segment_0"]["1"]["block_0"]["mixer"]["q"].dtype == dtype
        assert layers["norm"]["scale"].dtype == "float32"
    assert layers["segment_0"].keys() == {"0", "1"}


def test_left_pad():
    tokens_BT, mask_BT = left_pad([[1, 2], [], [3, 4, 5]])
    chex.assert_trees_all_equal(tokens_BT, np.int32([[0, 1, 2], [0, 0, 0], [3, 4, 5]]))
    chex.assert_trees_all_equal(mask_BT, np.int32([[0, 1, 1], [0, 0, 0], [1, 1, 1]]))


def test_every_learned_position_can_be_used():
    """Of 40, though lengths are rounded up to multiples of 64."""
    longest = MODELS["learned"].positions.length
    tokens = np.arange(2 * longest).reshape(2, longest) % V
    assert run("learned", tokens[:, :30], None, max_new_tokens=longest - 30)[0].shape == (2, longest - 30)
    assert run("learned", tokens[:, :-1], None, max_new_tokens=1)[0].shape == (2, 1)
    wide = np.pad(tokens[:, :-1], ((0, 0), (50, 0)))  # more columns than positions
    assert run("learned", wide, np.arange(wide.shape[1])[None] >= [[50], [80]], max_new_tokens=1)[0].shape == (2, 1)
    with pytest.raises(UserError, match="a prompt of 30 tokens and 11 new ones exceed the 40 positions"):
        run("learned", tokens[:, :30], None, max_new_tokens=11)


@pytest.mark.parametrize(
    "tokens, mask, more, message",
    [
        (np.zeros(4, int), None, {}, r"a \(rows, positions\) array of integers, got shape \(4,\)"),
        (np.zeros((0, 4), int), None, {}, r"array of integers, got shape \(0, 4\)"),
        (np.zeros((2, 0), int), None, {}, r"array of integers, got shape \(2, 0\)"),
        (np.zeros((2, 4)), None, {}, r"array of integers, got shape \(2, 4\) of float64"),
        (np.full((1, 4), V), None, {}, "token ids must lie in 0..31, got 32..32"),
        (np.array([[3, -1]]), None, {}, "token ids must lie in 0..31, got -1..3"),
        (TOKENS, MASK[:, 1:], {}, r"the mask's shape \(3, 8\) is not that of the tokens, \(3, 9\)"),
        (TOKENS, MASK[:, ::-1], {}, "prompts must be padded on the left"),
        (TOKENS, np.zeros_like(MASK), {}, "prompts must be padded on the left"),
        (TOKENS, None, {"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
    ],
)
def test_mistakes(tokens, mask, more, message):
    with pytest.raises(UserError, match=message):
        run(tokens=tokens, mask=mask, **more)
