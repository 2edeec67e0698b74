"""The generator's and the discriminator's losses, written out; what the two share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.models import ElectraConfig, MaskedHead, ReplacedHead, flops
from jaxlm.nn import LearnedConfig
from jaxlm.objectives import MaskedTokens, ReplacedTokens
from jaxlm.objectives.replaced_tokens import sample
from tests import tiny
from tests.objectives.test_next_token import ENCODER
from tests.weights import weights

SMALL = dataclasses.replace(ENCODER, D=16, embed_width=32, positions=LearnedConfig(32), head=MaskedHead())
LARGE = dataclasses.replace(ENCODER, positions=LearnedConfig(32), head=ReplacedHead())
MODEL = ElectraConfig(SMALL, LARGE)
TELL = ReplacedTokens(mask=263, rate=0.3, vocabulary=256)
BATCH = tiny.batch(4)
PARAMS = weights(MODEL.build(), BATCH["tokens"], method="forward")


def test_embeddings_are_shared():
    assert {"embed", "positions", "generator", "discriminator"} == PARAMS.keys()
    assert not {"embed", "positions"} & {*PARAMS["generator"], *PARAMS["discriminator"]}
    alone = flops.parameters(SMALL) + flops.parameters(LARGE)
    assert flops.parameters(MODEL) == alone - ENCODER.V * 32 - 32 * 32
    assert MODEL.flops({"T": 32}) == SMALL.flops({"T": 32}) + LARGE.flops({"T": 32})


def test_the_two_losses():
    found, _ = jax.jit(lambda p, b: TELL.loss(MODEL, p, b))(PARAMS, BATCH)
    hide, draw, _ = jax.random.split(jax.random.key(0), 3)
    hidden, chosen = TELL.hide(BATCH, hide, MODEL.V)
    np.testing.assert_array_equal(hidden, np.where(chosen, 263, BATCH["tokens"]))
    run = lambda c, p, x: c.build().apply({"params": p}, x, BATCH["positions"], BATCH["segments"])
    made = run(*MODEL.part(PARAMS, "generator"), hidden)
    logp = np.take_along_axis(np.asarray(jax.nn.log_softmax(made)), BATCH["tokens"][..., None], -1)[..., 0]
    generator = -logp[np.asarray(chosen)].mean()
    shown = np.where(chosen, sample(made, draw), BATCH["tokens"])
    told_BT = np.asarray(run(*MODEL.part(PARAMS), shown))[..., 0]
    real, replaced = BATCH["segments"] > 0, shown != BATCH["tokens"]
    assert replaced.sum() > 10 and not (replaced & ~np.asarray(chosen)).any()
    told = np.where(replaced, -np.log(1 / (1 + np.exp(-told_BT))), -np.log(1 / (1 + np.exp(told_BT))))[real].mean()
    np.testing.assert_allclose(found.total / found.weight, generator + 50 * told, rtol=1e-4)
    np.testing.assert_allclose(found.shown["discriminator"] / found.weight, told, rtol=1e-4)
    hits = ((told_BT > 0) == replaced)[real].mean()
    np.testing.assert_allclose(found.shown["accuracy"] / found.weight, hits, rtol=1e-5)


def test_samples_are_as_frequent_as_they_are_likely():
    chances = np.array([0.1, 0.2, 0.7])
    drawn = sample(jnp.broadcast_to(jnp.log(chances), (20, 500, 3)), jax.random.key(1))
    np.testing.assert_allclose(np.bincount(np.ravel(drawn)) / 10_000, chances, atol=0.015)


def test_what_cannot_be():
    with pytest.raises(UserError, match="share embeddings, and embed_width is 32 and 16"):
        ElectraConfig(SMALL, dataclasses.replace(LARGE, embed_width=16))
    with pytest.raises(UserError, match="the generator needs head=MaskedHead"):
        ElectraConfig(LARGE, SMALL)
    with pytest.raises(UserError, match="it takes a generator and a discriminator: give an ElectraConfig"):
        tiny.run(model=SMALL, objective=TELL)
    with pytest.raises(UserError, match="mask=300 is no id"):
        tiny.run(model=MODEL, objective=dataclasses.replace(TELL, mask=300))
    assert isinstance(TELL, MaskedTokens)
