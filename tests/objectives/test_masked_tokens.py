"""Which tokens are hidden, and how they are scored; on every mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.objectives import MaskedTokens
from jaxlm.sharding import MeshConfig, make_mesh
from tests import tiny
from tests.meshes import name
from tests.objectives.test_next_token import ENCODER
from tests.weights import weights

MASK = 263
HIDING = MaskedTokens(mask=MASK, rate=0.3, vocabulary=256)
BATCH = tiny.batch(8)


def test_80_10_10():
    batch = {"tokens": jnp.full((64, 512), 256), "segments": jnp.ones((64, 512), int).at[:, -12:].set(0)}
    shown, chosen = HIDING.hide(batch, jax.random.key(3), 264)
    real = 64 * 500
    assert abs(chosen.sum() / real - 0.3) < 0.01 and not chosen[:, -12:].any()
    seen = np.asarray(shown)[np.asarray(chosen)]
    shares = [(seen == MASK).mean(), (seen < 256).mean(), (seen == 256).mean()]
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.015)
    assert len(np.unique(seen[seen < 256])) > 200
    np.testing.assert_array_equal(shown[~chosen], 256)


def test_only_hidden_tokens_are_scored():
    params = weights(ENCODER.build(), BATCH["tokens"])
    shown, chosen = HIDING.hide(BATCH, jax.random.key(0), 264)
    logits = ENCODER.build().apply({"params": params}, shown, BATCH["positions"], BATCH["segments"])
    logprobs = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(logprobs, BATCH["tokens"][..., None], -1)[..., 0]
    sums, _ = HIDING.loss(ENCODER, params, BATCH)
    np.testing.assert_allclose(sums.total, -np.sum(picked * chosen), rtol=1e-5)
    assert sums.weight == chosen.sum() and sums.shown == {}
    again, _ = HIDING.loss(ENCODER, params, BATCH)
    assert again.total == sums.total  # evaluation hides the same
    other, _ = HIDING.loss(ENCODER, params, BATCH, jax.random.key(1))
    assert other.weight != sums.weight


def test_whole_words():
    """All tokens of a word or none; each of them still becomes one of three."""
    words = np.maximum.accumulate(np.where(np.arange(512) % 3 == 0, np.arange(512), 0))
    batch = {"tokens": jnp.full((64, 512), 256), "segments": jnp.ones((64, 512), int)}
    batch |= {"words": np.broadcast_to(words, (64, 512)), "weights": jnp.ones((64, 512)).at[:, -2:].set(0)}
    whole = dataclasses.replace(HIDING, whole_words=True)
    shown, chosen = map(np.asarray, whole.hide(batch, jax.random.key(3), 264))
    assert abs(chosen.mean() - 0.3) < 0.02 and not chosen[:, -2:].any()
    of_words = chosen[:, :510].reshape(64, 170, 3)
    assert (of_words.all(-1) | ~of_words.any(-1)).all()
    assert 0.01 < (shown[:, :510].reshape(64, 170, 3)[of_words.all(-1)] == MASK).all(-1).mean() < 0.6
    assert "words" in whole.spec(tiny.run().data) and "words" not in HIDING.spec(tiny.run().data)


@pytest.mark.parametrize("mesh", [MeshConfig(2, 2, 2), MeshConfig(1, 8, 1, explicit=False)], ids=name)
def test_the_same_are_hidden_on_every_mesh(mesh):
    hide = jax.jit(lambda batch: HIDING.hide(batch, jax.random.key(5), 264))
    alone = hide(BATCH)
    with jax.set_mesh(made := make_mesh(mesh)):
        for one, other in zip(alone, hide(tiny.place(BATCH, made))):
            np.testing.assert_array_equal(one, other)
            where = jax.sharding.NamedSharding(made, sharding.spec("batch", "positions", mesh=made))
            assert mesh.explicit is False or other.sharding.is_equivalent_to(where, 2)


def test_what_cannot_be():
    with pytest.raises(UserError, match=r"MaskedTokens cannot train this LMConfig: its attention is causal"):
        tiny.run(objective=HIDING)
    with pytest.raises(UserError, match="mask=300 is no id of its vocabulary of 264"):
        tiny.run(model=ENCODER, objective=MaskedTokens(mask=300))
