import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.objectives import SpanCorruption
from tests.models.test_seq2seq import MODEL, PARAMS
from tests.tiny import model as tiny_model

T = 20
OBJECTIVE = SpanCorruption(marks=29, rate=0.3, mean=2.0)
TEXTS = np.random.default_rng(0).integers(2, 20, (4, T)).astype(np.int32)
BATCH = {"tokens": jnp.asarray(TEXTS), "weights": jnp.ones((4, T)).at[3, -1].set(0)}


class Data:
    T = T


def test_source_and_target_together_are_the_text():
    pairs = OBJECTIVE.corrupt(BATCH["tokens"], jax.random.key(3))
    sizes = OBJECTIVE.lengths(Data)
    assert pairs["source"].shape == (4, sizes["S"]) and pairs["labels"].shape == (4, sizes["T"])
    for text, source, labels, target in zip(TEXTS, pairs["source"], pairs["labels"], pairs["tokens"]):
        source, labels = source.tolist(), labels.tolist()
        assert source.pop() == labels.pop() == 1
        assert target.tolist() == [0, *labels]
        spans, number = {}, None
        for i in labels:
            number = i if i > 20 else number
            spans.setdefault(number, []).append(i)
        assert list(spans) == [29, 28, 27]
        whole = [j for i in source for j in (spans[i][1:] if i in spans else [i])]
        assert whole == text.tolist()


def test_it_is_a_function_of_batch_and_key():
    run = lambda key: OBJECTIVE.loss(MODEL, PARAMS, BATCH, key)[0]
    same, other = (run(jax.random.key(i)).total for i in (1, 2))
    assert run(jax.random.key(1)).total == same != other
    assert run(None).total == run(None).total
    assert run(None).weight == 3 * OBJECTIVE.lengths(Data)["T"]  # a row that its text does not fill counts nothing


def test_what_cannot_be():
    with pytest.raises(UserError, match="it reads no source"):
        OBJECTIVE.check(tiny_model())
    with pytest.raises(UserError, match="must be below V=30"):
        SpanCorruption(marks=30).check(MODEL)
