"""Hidden tokens and the next sentence, written out."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.models import forward, logits
from jaxlm.objectives import MaskedPairs
from tests import tiny
from tests.objectives.test_next_token import ENCODER
from tests.weights import weights

MODEL = dataclasses.replace(ENCODER, types=2, pooler=True, next_sentence=True)
PAIRS = MaskedPairs(mask=263, rate=0.3, vocabulary=256)
RNG = np.random.default_rng(0)


def batch(rows=8):
    found = tiny.batch(rows)
    del found["labels"]
    found |= {"types": (found["segments"] == 2).astype(np.int32), "segments": np.minimum(found["segments"], 1)}
    found |= {"weights": found["weights"] * (np.arange(32) != 3), "follows": RNG.integers(0, 2, (rows, 1))}
    return found | {"pair_weights": (np.arange(rows) < 6)[:, None].astype(np.float32)}


def test_the_two_losses():
    given = batch()
    params = weights(MODEL.build(), given["tokens"])
    shown, chosen = PAIRS.hide(given, jax.random.key(0), MODEL.V)
    assert not chosen[:, 3].any() and chosen.any()
    out = forward(MODEL.build(), params, shown, given["positions"], given["segments"], given["types"])
    logp = np.asarray(jax.nn.log_softmax(logits(MODEL, out)))
    masked = -np.take_along_axis(logp, given["tokens"][..., None], -1)[..., 0][np.asarray(chosen)].mean()
    after = np.asarray(jax.nn.log_softmax(out.encoded.next_B2))[:6]
    follows = given["follows"][:6, 0]
    nll = -np.where(follows == 1, after[:, 0], after[:, 1]).mean()
    found, _ = jax.jit(lambda p, b: PAIRS.loss(MODEL, p, b))(params, given)
    np.testing.assert_allclose(found.total / found.weight, masked + nll, rtol=1e-5)
    np.testing.assert_allclose(found.shown["next_sentence"] / found.weight, nll, rtol=1e-5)
    hits = ((after[:, 0] >= after[:, 1]) == (follows == 1)).mean()
    np.testing.assert_allclose(found.shown["accuracy"] / found.weight, hits, rtol=1e-5)


def test_what_cannot_be():
    with pytest.raises(UserError, match="it has no head for the next sentence: set pooler, next_sentence and types=2"):
        tiny.run(model=ENCODER, objective=PAIRS)
