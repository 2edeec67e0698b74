"""What callers may give a model: odd arguments are refused before anything is computed."""

import contextlib
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.api import LanguageModel
from jaxlm.decode import Greedy, Temperature, TopK
from jaxlm.errors import UserError
from jaxlm.models import LM
from jaxlm.text import ByteTokenizer
from tests import tiny
from tests.weights import weights


@functools.cache
def model() -> LanguageModel:
    c = tiny.model()
    return LanguageModel(c, weights(LM(c), np.zeros((1, 1), np.int32)), ByteTokenizer())


ODD = [None, 5, 1.5, "4", b"4", "", [], {}, object(), iter(["a"]), np.array(["a"]), np.array(1.5), np.zeros((2, 2, 2))]


def refused_or_plain(call, *args, **more):
    """Whatever is given there is a result or a UserError."""
    with contextlib.suppress(UserError):
        call(*args, **more)


@pytest.mark.parametrize(
    "call",
    [
        lambda lm, x: lm.generate(x, 1),
        lambda lm, x: lm.generate("a", x),
        lambda lm, x: lm.generate("a", 1, x),
        lambda lm, x: lm.generate("a", 1, key=x),
        lambda lm, x: lm.generate("a", 1, stop=x),
        lambda lm, x: lm.generate([[1, 2]], 1, mask_BT=x),
        lambda lm, x: lm.stream(x, 1),
        lambda lm, x: lm.stream("a", x),
        lambda lm, x: lm.logits(x),
        lambda lm, x: lm.logits([[1, 2]], x),
        lambda lm, x: lm.logits([[1, 2]], params=x),
        lambda lm, x: lm.logprobs(x),
        lambda lm, x: lm.logprobs(["a"], x),
        lambda lm, x: lm.to_hf(x),
        lambda lm, x: lm.vectors(x),
        lambda lm, x: lm.neighbours(x),
        lambda lm, x: lm.neighbours("a", x),
        lambda lm, x: lm.analogy("a", "b", "c", x),
        lambda lm, x: lm.analogy("a", x, "c"),
        lambda lm, x: lm.tokenizer.encode(x),
        lambda lm, x: lm.tokenizer.encode_batch(x),
        lambda lm, x: lm.tokenizer.decode(x),
        lambda lm, x: lm.tokenizer.token(x),
        lambda lm, x: lm.tokenizer.spell(x),
        lambda lm, x: lm.tokenizer.id(x),
    ],
)
def test_odd_arguments_are_refused_before_anything_is_computed(call, monkeypatch):
    def computed(*args, **more):
        raise UserError("as far as this: the arguments are fine")

    monkeypatch.setattr(importlib.import_module("jaxlm.decode.prefill"), "first_pass", computed)
    monkeypatch.setattr("jaxlm.api.model._logits", computed)
    monkeypatch.setattr("jaxlm.api.model._logprobs", computed)
    lm = model()
    for x in ODD:
        refused_or_plain(call, lm, x)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda lm: lm.generate("a", 2**31), "need more than 2\\*\\*31 positions: ask for less"),
        (lambda lm: lm.generate("a", 2**28), r"need \d+\.\d GiB in caches of keys and values, a device has"),
        (lambda lm: lm.generate("a", 1.5), "max_new_tokens must be an integer, got 1.5"),
        (lambda lm: lm.generate("a", None), "max_new_tokens must be an integer, got None"),
        (lambda lm: lm.generate("a", "4"), "max_new_tokens must be an integer, got '4'"),
        (lambda lm: lm.stream("a", True), "max_new_tokens must be an integer, got True"),
        (lambda lm: lm.generate("a", key=0), "key must be one key of jax.random, such as jax.random.key.0., got 0"),
        (lambda lm: lm.generate("a", key=jax.random.split(jax.random.key(0))), "got 2 keys"),
        (lambda lm: lm.generate("a", key="k"), "got 'k'"),
        (lambda lm: lm.generate("a", stop=1.5), "a stop is a text or a token id"),
        (lambda lm: lm.generate("a", stop=264), "264"),
        (lambda lm: lm.generate(None), r"prompts .* None"),
        (lambda lm: lm.generate(iter(["a"])), "prompts must be texts"),
        (lambda lm: lm.generate({"a": 1}), "prompts must be texts"),
        (lambda lm: lm.generate("a", sampler="greedy"), "a sampler must be one of jaxlm's, such as Greedy"),
        (lambda lm: lm.generate("a", sampler=Greedy), "a sampler must be one of jaxlm's"),
        (lambda lm: lm.generate([[1, 2]], mask_BT=[[1, 2]]), "the mask must hold 0 and 1"),
        (lambda lm: lm.logits([[1]], "x"), "the mask must hold 0 and 1"),
        (lambda lm: lm.logits([[1]], params={}), "params must be a tree of arrays like lm.params"),
        (lambda lm: lm.neighbours("a", None), "k must be an integer, got None"),
        (lambda lm: lm.tokenizer.token(10**9), "token id 1000000000 is outside this tokenizer's vocabulary of 257"),
        (lambda lm: lm.tokenizer.token(-1), "token id -1 is outside"),
    ],
)
def test_odd_arguments_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call(model())


def test_numbers_of_arrays_are_numbers():
    """Also keys of the old kind."""
    lm, sampler = model(), TopK(3) | Temperature(2.0)
    expected = lm.generate("a", 3, sampler, jax.random.key(1)).texts
    for three in (np.int32(3), np.array(3), jnp.array(3)):
        assert TopK(three) | Temperature(np.float32(2)) == sampler
        assert lm.generate("a", three, sampler, jax.random.PRNGKey(1)).texts == expected
        assert lm.tokenizer.token(three) == "<0x03>"
    assert len(lm.neighbours("a", np.array(3))) == 3
