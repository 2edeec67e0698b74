import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.decode import (
    Banned,
    Choice,
    Forced,
    Greedy,
    LogitBias,
    MinLength,
    NoRepeatNgram,
    Sampler,
    Temperature,
    generate,
    prepare,
)
from jaxlm.errors import UserError
from tests.decode.models import MODELS, V, params, prompts

T, NEW = 9, 6
TOKENS, MASK = prompts(T, 0, 3, T - 1)


def run(sampler):
    config, tree = prepare(MODELS["rope"], params("rope"))
    return generate(config, tree, TOKENS, mask_BT=MASK, max_new_tokens=NEW, sampler=sampler)


def test_what_is_banned_never_comes_and_all_else_is_as_before():
    free = run(Greedy())[0]
    banned = tuple({int(i) for i in free[:, 0]})
    found = run(Banned(banned) | Greedy())[0]
    assert not np.isin(found, banned).any()
    logits = np.random.default_rng(0).normal(size=(2, V)).astype(np.float32)
    filtered = np.asarray(Banned((1, 5)).filter(logits, ()))
    assert np.isneginf(filtered[:, [1, 5]]).all()
    rest = [i for i in range(V) if i not in (1, 5)]
    np.testing.assert_array_equal(filtered[:, rest], logits[:, rest])


@pytest.mark.parametrize("last", [Greedy(), Temperature(2.0)])
def test_texts_begin_and_end_as_they_must(last):
    found = run(Forced(3, 7, NEW) | last)[0]
    assert (found[:, 0] == 3).all() and (found[:, -1] == 7).all()
    free = run(Forced(length=NEW) | last)[0]
    np.testing.assert_array_equal(free, run(Sampler() | last)[0])
    np.testing.assert_array_equal(run(Forced(last=7, length=NEW) | last)[0][:, :-1], free[:, :-1])


def test_no_ngram_comes_twice_and_a_text_does_not_end_too_soon():
    """In the loop: prompts padded and not, with their own tokens; the end token is what would come first."""
    found = run(NoRepeatNgram(1) | Greedy())[0]
    for row, mask, new in zip(TOKENS, MASK, found):
        said = [*row[mask > 0], *new]
        assert len(set(said[len(said) - NEW :])) == NEW and not set(new) & set(row[mask > 0])
    ends = tuple({int(i) for i in run(Greedy())[0][:, 0]})
    found = run(MinLength(3, ends) | LogitBias({ends[0]: 50}) | Greedy())[0]
    assert not np.isin(found[:, :3], ends).any() and (found[:, 3:] == ends[0]).all()


def test_only_the_newest_tokens_count_and_stopped_rows_say_nothing():
    sampler = NoRepeatNgram(2, 3)
    state = sampler.start(jnp.array([[1, 2, 1, 3, 1], [9, 9, 9, 4, 4]]), jnp.array([[1] * 5, [0, 0, 0, 1, 1]]), V)
    banned = lambda state: [
        np.flatnonzero(row).tolist() for row in np.isneginf(sampler.filter(jnp.zeros((2, V)), state))
    ]
    assert banned(state) == [[3], [4]]
    state = sampler.after(state, Choice(jnp.array([3, -1])))
    assert banned(state) == [[1], [4]]


def test_mistakes():
    with pytest.raises(UserError, match="a banned token must be an integer"):
        Banned(("x",))
    with pytest.raises(UserError, match="a logit bias is for token 99, the vocabulary ends at 31"):
        LogitBias({99: 1.0}).start(jnp.zeros((1, 1), int), jnp.ones((1, 1), int), V)
    for biases, message in [(7, "pairs of a token"), ({1: np.nan}, "a finite number or -inf"), ({-1: 1}, "at least 0")]:
        with pytest.raises(UserError, match=message):
            LogitBias(biases)
    with pytest.raises(UserError, match="n of no-repeat n-grams must be at least 1"):
        NoRepeatNgram(0)
    with pytest.raises(UserError, match="the minimum length must be at least 0"):
        MinLength(-1, ())
