"""Negatives of the batch, written out."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.models import forward
from jaxlm.objectives import Contrastive
from tests import tiny
from tests.objectives.test_next_token import ENCODER
from tests.weights import weights

MODEL = dataclasses.replace(ENCODER, head=None)
RNG = np.random.default_rng(0)


def batch(rows=8, real=6):
    lengths = RNG.integers(3, 32, (2, rows, 1))
    sides = {}
    for name, length in zip(("source", "target"), lengths):
        sides[f"{name}_segments"] = (np.arange(32)[None] < length).astype(np.int32)
        sides[name] = RNG.integers(0, 256, (rows, 32)).astype(np.int32) * sides[f"{name}_segments"]
    return sides | {"weights": (np.arange(rows) < real)[:, None].astype(np.float32)}


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_formula(symmetric):
    given = batch()
    params = weights(MODEL.build(), given["source"], method="forward")

    def vectors(side):
        out = forward(MODEL.build(), params, given[side], None, given[f"{side}_segments"])
        rows = zip(np.asarray(out.encoded.last_BTD), given[f"{side}_segments"])
        x = np.stack([row[real == 1].mean(0) for row, real in rows])[:6]
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    cosines = vectors("source") @ vectors("target").T / 0.1
    each = lambda s: -np.log(np.exp(np.diag(s)) / np.exp(s).sum(-1))
    wanted = each(cosines).sum()
    wanted = (wanted + each(cosines.T).sum()) / 2 if symmetric else wanted
    objective = Contrastive(0.1, symmetric=symmetric)
    found, _ = jax.jit(lambda p, b: objective.loss(MODEL, p, b))(params, given)
    np.testing.assert_allclose(found.total, wanted, rtol=2e-4)
    assert found.weight == 6
    if not symmetric:
        assert found.shown["accuracy"] == (cosines.argmax(-1) == np.arange(6)).sum()
        assert objective.flops(MODEL, tiny.run().data) == 2 * MODEL.flops({"T": 32})


def test_what_cannot_be():
    with pytest.raises(UserError, match="its head is not trained so: give it head=null"):
        tiny.run(model=ENCODER, objective=Contrastive())
    with pytest.raises(UserError, match="unknown pooling 'meen': did you mean 'mean'"):
        Contrastive(pooling="meen")
    with pytest.raises(UserError, match="temperature=0 must be"):
        Contrastive(0)
