"""The labels of texts: how they are scored, on every mesh; learned in a run."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxlm.data import LabelledTexts
from jaxlm.errors import UserError
from jaxlm.models import SequenceHead, TokenHead, forward, logits
from jaxlm.objectives import Classify, MaskedTokens, TagTokens
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train.batch import place
from tests import tiny
from tests.meshes import name
from tests.objectives.test_next_token import ENCODER
from tests.weights import weights

MODEL = dataclasses.replace(ENCODER, head=SequenceHead(("no", "maybe", "yes"), "tanh"))
RNG = np.random.default_rng(0)
BATCH = {name: x for name, x in tiny.batch(8).items() if name in ("tokens", "positions", "segments")}
BATCH |= {"labels": RNG.integers(0, 3, (8, 1)), "weights": (np.arange(8) < 6)[:, None].astype(np.float32)}
PARAMS = weights(MODEL.build(), BATCH["tokens"])


def test_the_formula():
    out = forward(MODEL.build(), PARAMS, BATCH["tokens"], BATCH["positions"], BATCH["segments"])
    l_BC = np.asarray(logits(MODEL, out))[:6, 0]
    logp = l_BC - np.log(np.exp(l_BC).sum(-1, keepdims=True))
    label = BATCH["labels"][:6, 0]
    nll = -logp[np.arange(6), label]
    found, _ = Classify(0.3).loss(MODEL, PARAMS, BATCH)
    np.testing.assert_allclose(found.total, nll.sum(), rtol=1e-5)
    assert found.weight == 6 and found.shown["accuracy"] == (l_BC.argmax(-1) == label).sum()
    smoothed, _ = Classify(0.3).loss(MODEL, PARAMS, BATCH, jax.random.key(0))
    np.testing.assert_allclose(smoothed.shown["nll"], nll.sum(), rtol=1e-5)
    np.testing.assert_allclose(smoothed.total, 0.7 * nll.sum() - 0.3 * logp.mean(-1).sum(), rtol=1e-5)
    assert Classify(0.3).adds and not Classify().adds


@pytest.mark.parametrize("mesh", [MeshConfig(2, 2, 2), MeshConfig(1, 8, 1, explicit=False)], ids=name)
def test_on_meshes(mesh):
    """Three classes, which no mesh divides."""
    loss = jax.jit(jax.value_and_grad(lambda p, batch: Classify().loss(MODEL, p, batch)[0].total))
    value, gradient = loss(PARAMS, BATCH)
    with jax.set_mesh(made := make_mesh(mesh)):
        spec = Classify().spec(tiny.run(objective=MaskedTokens(mask=263), model=ENCODER).data)
        found, d = loss(PARAMS, place(BATCH, spec, made))
        np.testing.assert_allclose(found, value, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), d, gradient)


def test_tags_of_tokens():
    c, batch = dataclasses.replace(ENCODER, head=TokenHead(("x", "y", "z"))), tiny.batch(4)
    batch |= {"labels": RNG.integers(0, 3, (4, 32)), "weights": RNG.integers(0, 2, (4, 32)).astype(np.float32)}
    params = weights(c.build(), batch["tokens"])
    l_BTC = np.asarray(c.build().apply({"params": params}, batch["tokens"], batch["positions"], batch["segments"]))
    logp = np.take_along_axis(np.asarray(jax.nn.log_softmax(l_BTC)), batch["labels"][..., None], -1)[..., 0]
    found, _ = jax.jit(lambda p, b: TagTokens().loss(c, p, b))(params, batch)
    np.testing.assert_allclose(found.total, -(logp * batch["weights"]).sum(), rtol=1e-5)
    assert found.shown["accuracy"] == ((l_BTC.argmax(-1) == batch["labels"]) * batch["weights"]).sum()
    with pytest.raises(UserError, match="it has no head for classes of tokens"):
        tiny.run(model=MODEL, objective=TagTokens())


def test_what_cannot_be():
    with pytest.raises(UserError, match=r"Classify cannot train this .*: it has no head for classes of texts"):
        tiny.run(model=ENCODER, objective=Classify())
    with pytest.raises(UserError, match=r"MaskedTokens cannot train this .*: it has no head for hidden tokens"):
        tiny.run(model=MODEL, objective=MaskedTokens(mask=263))
    data = LabelledTexts("x.tsv", ("no", "maybe", "yes"))
    assert tiny.run(model=MODEL, objective=Classify(), data=data).flops_per_token > 0
