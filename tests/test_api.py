import functools
import json
import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm import cli, config
from jaxlm.api import LanguageModel
from jaxlm.api import model as api
from jaxlm.checkpoints.checkpoint import Checkpoints
from jaxlm.decode import Greedy, Sampler, Temperature, TopK
from jaxlm.errors import UserError
from jaxlm.models import LM
from jaxlm.sharding import make_mesh
from jaxlm.text import ByteTokenizer
from jaxlm.train.setup import Setup
from tests import tiny
from tests.scripted import LENGTH, scripted
from tests.weights import weights

EOT = 256
TEXT = "aé=bc字d𝄞 the end; and on"  # pieces of a stream end after 1, 9, 17, ... bytes, so within characters and stops
BYTES = TEXT.encode()
STOPS = [
    *[None, [], "the", "é", "字", "𝄞", "a", "on", "d𝄞", "é=", "absent", "字 "],
    *[["the", "end"], ["end", "the"], ["n", "end;"], ["the end; and", "end"], ["c", "bc字"], ["d𝄞 the e", "𝄞"]],
]


NO_STOPS = [[1.5], 1.5, {"a": 1}, [[1], [1, 2]], [None], True]


def first_complete(text: str, stops) -> str:
    """Character by character: the text before the stop that is the first to stand there whole."""
    stops = sorted([stops] if isinstance(stops, str) else stops or [], key=len, reverse=True)
    for n in range(len(text) + 1):
        for stop in stops:
            if text[:n].endswith(stop):
                return text[: n - len(stop)]
    return text


@functools.cache
def model(**changes) -> LanguageModel:
    """Random weights, which write any bytes."""
    c = tiny.model(**changes)
    return LanguageModel(c, weights(LM(c), np.zeros((1, 1), np.int32)), ByteTokenizer())


# generate -------------------------------------------------------------------------------------------------------------


def test_a_text_ends_with_the_token_for_it():
    out, n = scripted([*BYTES, EOT]).generate(""), len(BYTES)
    assert out.texts == [TEXT]
    assert out.tokens.shape == out.logprobs.shape == (1, 64)
    assert out.tokens.dtype == np.int32 and out.logprobs.dtype == np.float32
    assert out.tokens[0].tolist() == [*BYTES, EOT] + [-1] * (63 - n)
    np.testing.assert_allclose(out.logprobs, 0, atol=1e-4)


def test_prompts_of_different_lengths_at_once():
    out = scripted(BYTES).generate(["xy", "", "x" * 39], max_new_tokens=4)
    assert out.tokens.tolist() == [list(BYTES[2:6]), list(BYTES[:4]), list(BYTES[9:13])]
    assert out.texts == ["\ufffd=bc", "aé=", "d\ufffd"]


def test_texts_arrays_and_masks_are_the_same_prompts():
    lm, key = model(), jax.random.key(1)
    out = lm.generate(["ab", "c"], 5, Sampler(), key)
    tokens, mask = np.array([[EOT, 97, 98], [7, EOT, 99]]), np.array([[1, 1, 1], [0, 1, 1]])
    for given in (tokens, tokens.astype(np.uint16), jnp.asarray(tokens), tokens.tolist()):
        same = lm.generate(given, 5, Sampler(), key, mask_BT=mask)
        chex.assert_trees_all_equal((same.tokens, same.logprobs), (out.tokens, out.logprobs))
        assert same.texts == out.texts
    logp = jax.nn.log_softmax(
        lm.logits(np.concatenate([tokens, out.tokens], 1), np.pad(mask, ((0, 0), (0, 5)), mode="edge"))
    )
    expected = np.take_along_axis(np.asarray(logp)[:, 2:-1], out.tokens[..., None], -1)[..., 0]
    np.testing.assert_allclose(out.logprobs, expected, atol=1e-5)


def test_without_a_tokenizer_there_is_no_text():
    lm = LanguageModel(model().config, model().params, None)
    out = lm.generate([[EOT, 97, 98]], 5, stop=[256, 3])
    assert out.texts is None and out.tokens.shape == (1, 5)
    for call in (lambda: lm.generate("a"), lambda: lm.stream("a"), lambda: lm.generate([[1]], stop="a")):
        with pytest.raises(UserError, match="this model has no tokenizer: give tokens, not text"):
            call()


@pytest.mark.parametrize("stop", STOPS, ids=str)
def test_a_stop_text_and_what_follows_is_cut(stop):
    lm = scripted(BYTES)
    out = lm.generate("", len(BYTES), stop=stop)
    text = first_complete(TEXT, stop)
    assert out.texts == [text] == ["".join(lm.stream("", len(BYTES), stop=stop))]
    n = len(text.encode())
    assert out.tokens[0].tolist() == list(BYTES[:n]) + [-1] * (len(BYTES) - n)
    assert (out.logprobs[0, n:] == 0).all()


def test_a_stop_token_stays():
    lm = scripted(BYTES)
    out = lm.generate("", stop=[ord("d"), "the"])
    assert out.texts == ["aé=bc字d"] == ["".join(lm.stream("", stop=[ord("d"), "the"]))]
    assert lm.generate("", stop=np.int64(ord("d"))).texts == out.texts


def test_a_stop_ends_its_own_row():
    out = scripted(b"abcdefghij").generate(["", "xx"], 12, stop=["bc", "h"])
    assert out.texts == ["a", "cdefg"]
    assert out.tokens.tolist() == [[97] + [-1] * 11, [*b"cdefg"] + [-1] * 7]


def test_prompt_and_text_read_on():
    class Stripping(ByteTokenizer):
        """Drops the space that begins a text, as some do."""

        def parts(self, ids, skip_special, state=None):
            parts, _ = super().parts(ids, skip_special)
            if state is None and b" " in parts and not any(parts[: parts.index(b" ")]):
                parts[parts.index(b" ")] = b""
            return parts, state or any(parts) or None

    lm = scripted(b" a c", Stripping())
    for prompt, text in [("", "a c"), ("xx", " c a")]:
        assert lm.generate(prompt, 4).texts == [text] == ["".join(lm.stream(prompt, 4))]
    assert scripted(b"-\xa9!").generate([[EOT, 0xC3]], 2).texts == ["é!"]  # the prompt ends within a character


def test_ids_that_the_tokenizer_has_not_are_never_chosen():
    assert scripted([97, 260, 98]).generate("", 3).tokens.max() <= EOT


def test_other_parameters_are_seen():
    lm = scripted(b"ab")
    assert lm.generate("", 2).texts == ["ab"]
    lm.params = scripted(b"cd").params
    assert lm.generate("", 2).texts == ["cd"]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda lm: lm.generate([]), "no prompts were given"),
        (lambda lm: lm.generate([[1, 2], [3]]), "rows of tokens differ in length: pad them on the left"),
        (lambda lm: lm.generate([1, 2, 3]), r"must be a \(rows, positions\) array of integers, got shape \(3,\)"),
        (lambda lm: lm.generate([[0.5]]), r"got shape \(1, 1\) of float64"),
        (lambda lm: lm.generate([[]]), r"got shape \(1, 0\)"),
        (lambda lm: lm.generate([[264]]), "token ids must lie in 0..263, got 264..264"),
        (lambda lm: lm.generate([[5, -1]]), "token ids must lie in 0..263, got -1..5"),
        (lambda lm: lm.generate(["a", [1]]), "prompts must be all texts or all tokens"),
        (lambda lm: lm.generate(["a"], mask_BT=[[1]]), "a mask goes with tokens"),
        (lambda lm: lm.generate([[1, 2]], mask_BT=[[1, 0]]), "prompts must be padded on the left"),
        (lambda lm: lm.generate([[1, 2]], mask_BT=[[1]]), r"the mask's shape \(1, 1\) is not that of the tokens"),
        (lambda lm: lm.generate("a", 0), "max_new_tokens must be at least 1, got 0"),
        (lambda lm: lm.generate("a" * LENGTH), "a prompt of 129 tokens and 64 new ones exceed the 128 positions"),
        (lambda lm: lm.generate("a\udc80"), "lone surrogate"),
        (lambda lm: lm.generate("a", stop=""), "a stop text must not be empty"),
        *((lambda lm, s=s: lm.generate("a", stop=s), "a stop is a text or a token id") for s in NO_STOPS),
        *(
            (lambda lm, s=s: lm.stream("a", stop=[s]), f"a stop is a text or a token id: .* got {s}$")
            for s in (264, -1, 10**30)
        ),
        *(
            (lambda lm, p=p: lm.generate(p), "prompts must be texts, or an array of tokens")
            for p in (None, 5, {"a": 1})
        ),
        (lambda lm: lm.stream("a", 0), "max_new_tokens must be at least 1, got 0"),  # at once, before the first piece
        (lambda lm: lm.stream("a" * LENGTH), "exceed the 128 positions"),
        (lambda lm: lm.logits([[264]]), "token ids must lie in 0..263"),
        (lambda lm: lm.logits([1]), r"got shape \(1,\)"),
        (lambda lm: lm.logits([[1, 2], [1]]), "rows of tokens differ in length"),
        (lambda lm: lm.logits([[1, 2]], [[1]]), "the mask's shape"),
        (lambda lm: lm.logprobs([[264]]), "token ids must lie in 0..263"),
        (lambda lm: lm.logprobs([1]), r"got shape \(1,\)"),
        (lambda lm: lm.logprobs([]), r"got shape \(0,\)"),
        (lambda lm: lm.logprobs(None), r"got shape \(\) of object"),
        (lambda lm: lm.logprobs(["a", [1]]), "prompts must be all texts or all tokens"),
        (lambda lm: lm.logprobs("a", [[1]]), "a mask goes with tokens"),
        (lambda lm: lm.logprobs([[1, 2]], [[1]]), "the mask's shape"),
        (lambda lm: lm.logprobs("a", params={}), "params must be a tree of arrays like lm.params"),
        (lambda lm: lm.logprobs("a" * LENGTH), "129 tokens, but the model has learned positions"),
        (lambda lm: lm.logits(np.zeros((1, LENGTH + 1), int)), "129 tokens, but the model has learned positions"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(UserError, match=message):
        call(scripted(b"a"))


# stream ---------------------------------------------------------------------------------------------------------------


def test_a_stream_comes_in_pieces_of_whole_characters():
    pieces = list(scripted([*BYTES, EOT]).stream(""))
    assert "".join(pieces) == TEXT and len(pieces) == 5 and "" not in pieces
    assert pieces[0] == "a" and pieces[1] == "é=bc字"  # not the bytes 0xf0 0x9d... of the next one


def test_nothing_of_a_stop_is_shown_before_it_is_sure():
    assert list(scripted(b"abcdefghijklmnop").stream("", 16, stop="ijX")) == ["abcdefg", "hijklmnop"]


def test_a_stream_is_the_text_of_generate_whatever_is_written():
    """Random bytes: characters cut short at every place, invalid ones, stops among them."""
    lm, sampler = model(), Temperature(3.0) | TopK(200)
    for n in (1, 7, 8, 9, 40):
        for seed in range(4):
            key = jax.random.key(seed)
            out = lm.generate("", n, sampler, key)
            text = out.texts[0]
            assert out.tokens.max() <= EOT  # of the model's 264
            assert "".join(lm.stream("", n, sampler, key)) == text
            stops = [text[n // 2 : n // 2 + 3] or "-", text[-1:] or "-"]
            cut = lm.generate("", n, sampler, key, stops)
            assert "".join(lm.stream("", n, sampler, key, stops)) == cut.texts[0] == first_complete(text, stops)
            np.testing.assert_array_equal(cut.logprobs, np.where(cut.tokens >= 0, out.logprobs, 0))


# logits ---------------------------------------------------------------------------------------------------------------


TOKENS = np.array([[1, 2, EOT, 97, 98], [EOT, 97, 98, 99, 100]])
MASK = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


def test_logits_are_those_of_the_module():
    lm = model()
    expected = jax.jit(lm.model.apply)({"params": lm.params}, TOKENS)
    for given in (TOKENS, TOKENS.tolist(), jnp.asarray(TOKENS), TOKENS.astype(np.uint16)):
        found = lm.logits(given)
        assert found.shape == (2, 5, 264) and found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_padding_on_the_left_changes_no_logit():
    for lm in (model(), scripted(BYTES)):
        padded = lm.logits(TOKENS, MASK)
        np.testing.assert_allclose(padded[0, 2:], lm.logits([[EOT, 97, 98]])[0], atol=1e-5)
        np.testing.assert_allclose(padded[1], lm.logits(TOKENS)[1], atol=1e-5)


def test_logits_of_other_parameters_are_differentiable_and_jittable():
    lm = model()

    @jax.jit
    def loss(params, tokens=TOKENS, mask=MASK):
        return -jax.nn.log_softmax(lm.logits(tokens, mask, params=params))[0, -1, 5]

    value, grads = jax.jit(jax.value_and_grad(loss))(lm.params)
    np.testing.assert_allclose(value, -jax.nn.log_softmax(lm.logits(TOKENS, MASK))[0, -1, 5], rtol=1e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, lm.params)
    step = jax.tree.map(lambda x, g: x - 1e-3 * g, lm.params, grads)
    squares = sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads))
    assert squares > 1
    np.testing.assert_allclose(value - loss(step), 1e-3 * squares, rtol=0.05)
    assert loss(step, TOKENS, MASK) == loss(step)  # tokens and mask may be traced


# logprobs -------------------------------------------------------------------------------------------------------------


def from_logits(lm, tokens, mask=None, params=None):
    """By log softmax of all logits: of each token after the first, whatever is padding."""
    logp_BTV = jax.nn.log_softmax(lm.logits(tokens, mask, params=params))
    return jnp.take_along_axis(logp_BTV[:, :-1], jnp.asarray(tokens)[:, 1:, None], -1)[..., 0]


@pytest.mark.parametrize("changes", [{}, {"softcap": 0.5, "tied": False}], ids=str)
def test_logprobs_are_those_of_the_logits(changes):
    lm = model(**changes)
    found = lm.logprobs(TOKENS)
    assert found.shape == (2, 4) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, from_logits(lm, TOKENS), atol=1e-5)
    for given in (TOKENS.tolist(), jnp.asarray(TOKENS), TOKENS.astype(np.uint16)):
        np.testing.assert_array_equal(lm.logprobs(given), found)
    assert lm.logprobs(TOKENS[:, :1]).shape == (2, 0)  # no next token


def test_logprobs_of_padding_are_0():
    for lm in (model(), scripted(BYTES)):
        found = lm.logprobs(TOKENS, MASK)
        np.testing.assert_allclose(found[1], from_logits(lm, TOKENS)[1], atol=1e-5)
        np.testing.assert_allclose(found[0, 2:], from_logits(lm, [[EOT, 97, 98]])[0], atol=1e-5)
        assert (found[0, :2] == 0).all()  # of the first real token too, which follows padding
        np.testing.assert_allclose(lm.logprobs(TOKENS[:, ::-1], MASK[:, ::-1])[0, 2:], 0)  # padded on the right


def test_logprobs_of_texts_are_those_of_their_tokens():
    lm = model()
    found = lm.logprobs(["ab", "abcd"])
    tokens, mask = np.array([[0, 0, EOT, 97, 98], [EOT, 97, 98, 99, 100]]), MASK
    np.testing.assert_array_equal(found, lm.logprobs(tokens, mask))
    np.testing.assert_array_equal(lm.logprobs(np.array(["ab", "abcd"])), found)
    np.testing.assert_allclose(lm.logprobs("ab"), found[:1, 2:], atol=1e-5)
    with pytest.raises(UserError, match="this model has no tokenizer: give tokens, not text"):
        LanguageModel(lm.config, lm.params, None).logprobs("ab")


def test_logprobs_of_what_is_generated():
    lm = model()
    out = lm.generate(["ab", "c"], 5, Sampler(), jax.random.key(1))
    tokens, mask = np.array([[EOT, 97, 98], [7, EOT, 99]]), np.array([[1, 1, 1], [0, 1, 1]])
    both = np.concatenate([tokens, out.tokens], 1), np.pad(mask, ((0, 0), (0, 5)), mode="edge")
    np.testing.assert_allclose(lm.logprobs(*both)[:, 2:], out.logprobs, atol=1e-5)


def test_logprobs_of_other_parameters_are_differentiable_and_jittable():
    lm, rng = model(), np.random.default_rng(0)
    weights_BT = np.float32(rng.normal(size=(2, 4)) * MASK[:, 1:] * MASK[:, :-1])
    loss = lambda params, tokens, mask: (lm.logprobs(tokens, mask, params=params) * weights_BT).sum()
    slow = lambda params: (from_logits(lm, TOKENS, MASK, params) * weights_BT).sum()
    found = jax.jit(jax.value_and_grad(loss))(lm.params, TOKENS, MASK)  # tokens and mask may be traced
    chex.assert_trees_all_close(found, jax.jit(jax.value_and_grad(slow))(lm.params), atol=1e-5)
    texts = jax.jit(jax.grad(lambda params: lm.logprobs(["ab"], params=params).sum()))(lm.params)
    chex.assert_trees_all_equal_shapes_and_dtypes(texts, lm.params)


def test_logprobs_never_hold_all_logits():
    B, T, V = 4, 2048, 64 * 1024
    lm = model(V=V)
    params, tokens = jax.eval_shape(lambda: (lm.params, jnp.zeros((B, T), jnp.int32)))
    program = api._logprobs.lower(lm.model, params, tokens, None, None).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * B * T * V / 4


# load -----------------------------------------------------------------------------------------------------------------


def write_run(folder, ema: float = 0.0):
    """A run with the checkpoints 1, 2 and 3, as training leaves it; weights of step n are those of a fresh run, + n."""
    run = tiny.run(ema=ema)
    state = Setup(run, make_mesh(run.mesh, jax.devices()[:1])).create()[0]
    plus = lambda tree, n: jax.tree.map(lambda x: x + n, tree)
    folder.mkdir()
    config.save(run, folder / "config.json")
    ByteTokenizer().save(folder / "tokenizer")
    with Checkpoints(folder / "checkpoints", keep_last=3) as checkpoints:
        for n in (1, 2, 3):
            average = plus(state.ema, 10 * n) if ema else None
            checkpoints.save(n, state.replace(params=plus(state.params, n), ema=average), {})
    return state.params


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, write_run(folder)


def assert_plus(lm, params, n):
    chex.assert_trees_all_equal(lm.params, jax.tree.map(lambda x: x + n, params))


def test_load_takes_the_newest_checkpoint_or_the_one_named(whole):
    folder, params = whole
    for path, n in [(folder, 3), (str(folder), 3), (folder / "checkpoints/1", 1), (folder / "checkpoints/2", 2)]:
        lm = jaxlm.load(path)
        assert_plus(lm, params, n)
    assert lm.config == tiny.model() and lm.model == LM(lm.config) and lm.tokenizer.V == 257
    assert len(lm.generate("a", 5, Sampler()).texts) == 1


def test_load_takes_the_moving_average_where_there_is_one(tmp_path):
    params = write_run(tmp_path / "run", ema=0.9)
    assert_plus(jaxlm.load(tmp_path / "run"), params, 30)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b""), Path.unlink], ids=["empty", "removed"])
def test_load_goes_back_over_damage_with_a_warning(whole, tmp_path, damage):
    folder, params = tmp_path / "damaged", whole[1]
    shutil.copytree(whole[0], folder)
    description = lambda step: folder / "checkpoints" / step / "_CHECKPOINT_METADATA"
    damage(description("3"))
    with pytest.warns(UserWarning, match=r"checkpoints/3: .*; trying the one before"):
        assert_plus(jaxlm.load(folder), params, 2)
    with pytest.raises(UserError, match=r"cannot use the checkpoint .*checkpoints/3"):
        jaxlm.load(folder / "checkpoints/3")
    damage(description("2"))
    damage(description("1"))
    with pytest.warns(UserWarning), pytest.raises(UserError, match=r"cannot use the checkpoint .*checkpoints/1"):
        jaxlm.load(folder)


def test_what_cannot_be_loaded(whole, tmp_path):
    folder, _ = whole

    def refused(path, message):
        with pytest.raises(UserError, match=message):
            jaxlm.load(path)

    refused(tmp_path / "nothing", "neither a run nor a checkpoint of one, nor another model: it has no config.json")
    refused(folder / "checkpoints/9", "cannot use the checkpoint")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{")
    refused(run, "config.json is not valid JSON")
    (run / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))  # somebody else's model
    refused(run, r"config\.json: .* is missing")
    config.save(tiny.model(), run / "config.json")
    refused(run, "is not the config of a run")
    config.save(tiny.run(), run / "config.json")
    refused(run, "has no checkpoint yet: train it first")
    config.save(tiny.run(model=tiny.model(D=48)), run / "config.json")
    shutil.copytree(folder / "checkpoints", run / "checkpoints")
    with pytest.warns(UserWarning, match="in this model and"):
        refused(run, "in this model and float32")


# jaxlm generate -------------------------------------------------------------------------------------------------------


def test_the_command_writes_what_generate_writes(whole, capsys):
    folder, lm = str(whole[0]), jaxlm.load(whole[0])
    options = ["generate", folder, "--prompt", "ab", "--max-new-tokens", "12"]
    sampler = jaxlm.Temperature(0.8) | jaxlm.TopK(50) | jaxlm.TopP(0.9) | jaxlm.MinP(0.05)
    some = ["--temperature", "0.8", "--top-k", "50", "--top-p", "0.9", "--min-p", "0.05", "--seed", "5"]
    for more, how in [(["--greedy"], (Greedy(),)), (some, (sampler, jax.random.key(5)))]:
        assert cli.main([*options, *more]) == 0
        assert capsys.readouterr().out == "ab" + lm.generate("ab", 12, *how).texts[0] + "\n"


@pytest.mark.parametrize(
    "more, message",
    [
        (["--max-new-tokens", "0"], "max_new_tokens must be at least 1"),
        (["--top-k", "0"], "top-k must be a whole number of at least 1, got 0"),
        (["--top-p", "1.5"], "top-p must lie in"),
        (["--temperature", "-1"], "temperature must be above 0"),
        (["--stop", ""], "a stop text must not be empty"),
    ],
)
def test_mistakes_of_the_command_are_one_line(whole, more, message, capsys):
    assert cli.main(["generate", str(whole[0]), "--prompt", "ab", *more]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err


def test_the_command_needs_a_run(tmp_path, capsys):
    assert cli.main(["generate", str(tmp_path), "--prompt", "ab"]) == 2
    assert "is neither a run nor a checkpoint of one" in capsys.readouterr().err
