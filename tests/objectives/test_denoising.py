import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.objectives import Denoising
from tests.meshes import MESHES, on
from tests.models.test_seq2seq import MODEL, PARAMS
from tests.tiny import model as tiny_model

T, MASK, DOT = 24, 99, 9
INFILL = Denoising(mask=MASK, rate=0.3)
TEXT = 100 + np.arange(T)  # every token once: what is gone can be told
spoil = jax.jit(lambda objective, texts, key: objective.spoil(texts, key), static_argnums=0)


def pairs(objective, texts, seed=0):
    return jax.device_get(spoil(objective, jnp.asarray(texts, jnp.int32), jax.random.key(seed)))


def test_spans_are_cut_out_and_a_mask_stands_for_each():
    found = pairs(INFILL, np.stack([TEXT] * 200))
    lengths = []
    names = ("source", "source_segments", "tokens", "labels")
    for source, segments, tokens, labels in zip(*(found[name] for name in names)):
        assert tokens.tolist() == [2, *TEXT] and labels.tolist() == [*TEXT, 2]
        n = int(segments.sum())
        assert segments.tolist() == [1] * n + [0] * (T + 2 - n) and source[n - 1] == 2 and not source[n:].any()
        source, spent, masks = source[: n - 1], 99, 0
        for token in [*source, TEXT[-1] + 1]:
            if token == MASK:
                masks += 1
                continue
            gone = int(token) - spent - 1
            assert gone == 0 or masks  # nothing is lost without a mask
            lengths += [gone / masks] * masks if masks else []
            spent, masks = int(token), 0
        assert (source != MASK).sum() == T - round(T * 0.3)
    assert 1.8 < np.mean(lengths) < 3  # the last of a text is cut short
    assert 0.02 < np.mean(np.array(lengths) == 0) < 0.1 and max(lengths) > 5  # exp(-3) = 0.05 and some of both
    starts = np.bincount(np.concatenate([np.flatnonzero(row == MASK) for row in found["source"]]), minlength=T)
    assert starts[: T // 2].min() > 0  # anywhere


def test_sentences_change_their_order():
    text = np.array([11, 12, DOT, 21, DOT, 31, 32, 33, DOT, 41])
    objective = Denoising(mask=MASK, ends=(DOT,), rate=0.0)
    orders = set()
    for source in pairs(objective, np.stack([text] * 60))["source"]:
        assert source[len(text) :].tolist() == [2, 0]
        sentences, rest = [], source[: len(text)].tolist()
        while rest:
            size = {1: 3, 2: 2, 3: 4, 4: 1}[rest[0] // 10]
            sentences.append(rest[0] // 10)
            at = text.tolist().index(rest[0])
            assert rest[:size] == text[at : at + size].tolist()
            rest = rest[size:]
        orders.add(tuple(sentences))
    assert len(orders) > 15  # of 24
    still = pairs(Denoising(mask=MASK, rate=0.0), text[None])["source"][0]
    assert still.tolist() == [*text, 2, 0]


def test_it_is_a_function_of_batch_and_key_on_every_mesh():
    objective = Denoising(mask=29, ends=(3,), rate=0.3)
    texts = np.random.default_rng(0).integers(3, 20, (8, T)).astype(np.int32)
    batch = {"tokens": jnp.asarray(texts), "weights": jnp.ones((8, T)).at[3, -1].set(0)}
    loss = jax.jit(lambda params, batch, key: objective.loss(MODEL, params, batch, key)[0])
    run = lambda batch, key: loss(PARAMS, batch, key)
    total = lambda key: float(run(batch, key).total)
    assert total(jax.random.key(1)) == total(jax.random.key(1)) != total(jax.random.key(2))
    assert run(batch, None).weight == 7 * (T + 1)  # a row that its text does not fill counts nothing
    alone = pairs(objective, texts)
    with on(MESHES[0]) as put:
        meshed = jax.device_get(spoil(objective, put(texts, "batch", None), jax.random.key(0)))
    jax.tree.map(np.testing.assert_array_equal, meshed, alone)


def test_what_cannot_be():
    with pytest.raises(UserError, match="it reads no source"):
        INFILL.check(tiny_model())
    with pytest.raises(UserError, match="must be below its V"):
        INFILL.check(MODEL)
