"""Next-token loss against log probabilities of all logits; what models it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.models import EncoderConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig
from jaxlm.objectives import NextToken
from tests import tiny
from tests.weights import weights

MODEL = tiny.model()
ENCODER = EncoderConfig(
    264, 32, (LayersConfig((BlockConfig(AttentionConfig(H=2, K=16, causal=False), MLPConfig(64)),)),)
)


def test_sums_are_of_the_plain_loss_unless_training():
    batch = tiny.batch(2)
    params = weights(MODEL.build(), batch["tokens"])
    logits = MODEL.build().apply({"params": params}, batch["tokens"], batch["positions"], batch["segments"])
    lse = jax.nn.logsumexp(logits, -1)
    nll = np.sum((lse - jnp.take_along_axis(logits, batch["labels"][..., None], -1)[..., 0]) * batch["weights"])
    objective = NextToken(z_loss=0.01)
    held, statistics = objective.loss(MODEL, params, batch)
    np.testing.assert_allclose([held.total, held.shown["nll"], held.weight], [nll, nll, batch["weights"].sum()], 1e-5)
    trained, _ = objective.loss(MODEL, params, batch, jax.random.key(0))
    np.testing.assert_allclose(trained.total - nll, 0.01 * np.sum(lse**2 * batch["weights"]), rtol=1e-4)
    assert objective.adds and not NextToken().adds and statistics.keys() == {()}
    both = held + trained
    np.testing.assert_allclose(both.total, held.total + trained.total)


def test_a_batch_has_what_the_objective_says():
    spec, batch = NextToken().spec(tiny.run().data), tiny.batch(2)
    assert {name: (one.shape, np.dtype(one.dtype)) for name, one in spec.items()} == {
        name: (x.shape[1:], x.dtype) for name, x in batch.items()
    }


def test_an_encoder_is_refused():
    with pytest.raises(UserError, match=r"objective NextToken cannot train this EncoderConfig: .*; try MaskedTokens"):
        tiny.run(model=ENCODER)


def test_an_encoder_of_causal_layers_is_refused():
    with pytest.raises(UserError, match="set causal=false in its mixers"):
        EncoderConfig(264, 32, MODEL.layers)
