import numpy as np
import pytest

from jaxlm.decode import Banned, Forced, Greedy, Sampler, Temperature, generate, prepare
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


def test_mistakes():
    with pytest.raises(UserError, match="a banned token must be an integer"):
        Banned(("x",))
