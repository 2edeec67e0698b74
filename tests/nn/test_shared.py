"""A repeated layer is the layer, applied again and again."""

import jax
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.models import EncoderConfig, flops
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    Context,
    LayerNormConfig,
    LayersConfig,
    MLPConfig,
    MoEConfig,
    SharedConfig,
)
from tests.weights import weights

LAYER = BlockConfig(
    AttentionConfig(2, 8, rope=None, causal=False, scale_by_layer=True),
    MLPConfig(24),
    norm=None,
    norm_sum=LayerNormConfig(),
)
C = SharedConfig(LAYER, 3)
X = np.random.default_rng(0).normal(size=(2, 5, 16)).astype(np.float32)
CONTEXT = Context(np.arange(5)[None], layer=2)


def test_it_is_the_layer_again_and_again():
    """By depth: it knows how often."""
    module = C.build(1, "block")
    p = weights(module, X, CONTEXT)
    x = X
    for i in range(3):
        x, _ = LAYER.build(3, "layer").apply({"params": p["layer"]}, x, CONTEXT.replace(layer=2 + i))
    found, (state, statistics) = module.apply({"params": p}, X, CONTEXT)
    np.testing.assert_allclose(found, x, atol=1e-5)
    assert state == () and statistics == {}
    once = weights(LAYER.build(3, "layer"), X, CONTEXT)
    assert jax.tree.map(np.shape, p) == {"layer": jax.tree.map(np.shape, once)}


def test_its_compute_is_that_of_all():
    model = lambda *blocks: EncoderConfig(40, 16, (LayersConfig(blocks),), None)
    one, many = model(C), model(LAYER, LAYER, LAYER)
    assert one.flops({"T": 8}) == many.flops({"T": 8})
    assert flops.parameters(many) - flops.parameters(one) == 2 * (
        flops.parameters(model(LAYER, LAYER)) - flops.parameters(model(LAYER))
    )


def test_dropout_differs_each_time():
    dropping = SharedConfig(BlockConfig(LAYER.mixer, None, norm=None, dropout=0.5), 2)
    module = dropping.build(1, "block")
    p = jax.tree.map(np.zeros_like, weights(module, X, CONTEXT))
    p["layer"]["mixer"]["o"] += 1
    p["layer"]["mixer"]["v"] += 1
    found, _ = module.apply({"params": p}, np.ones_like(X), CONTEXT, rngs={"dropout": jax.random.key(0)})
    added = np.asarray(found) - 1
    assert 0.1 < np.mean(added == 0) < 0.4  # a quarter is dropped twice; were it the same each time, a half


def test_what_cannot_be():
    with pytest.raises(UserError, match="a layer with experts"):
        SharedConfig(BlockConfig(LAYER.mixer, MoEConfig(F=8, E=2, top_k=1)), 2)
    with pytest.raises(UserError, match="does not decode"):
        C.init_cache(1, 8, "float32")
