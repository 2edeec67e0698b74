import dataclasses

import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import AlibiConfig, AttentionConfig, BucketsConfig, Context, SharedBucketsConfig
from jaxlm.sharding import Axes
from tests.ops.test_relative import slow_bucket
from tests.weights import boxed, weights

DISTANCES = np.arange(-6, 18).reshape(4, 6)


@pytest.mark.parametrize("steepest", [8.0, 4.0])
def test_alibi_falls_with_the_distance(steepest):
    module = AlibiConfig(steepest).build(4, "bias")
    assert module.init({}, DISTANCES) == {}
    found = module.apply({}, DISTANCES)
    assert found.shape == (4, 4, 6)
    for h, i, j in np.ndindex(4, 4, 6):
        expected = -(2.0 ** (-steepest * (h + 1) / 4)) * abs(DISTANCES[i, j])
        np.testing.assert_allclose(found[h, i, j], expected, rtol=1e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_buckets_have_a_number_for_every_head(bidirectional):
    module = BucketsConfig(8, 12, bidirectional).build(4, "bias")
    assert sharding.axes_of(boxed(module, DISTANCES)) == {"table": Axes(("heads", None))}
    p = weights(module, DISTANCES)
    assert p["table"].shape == (4, 8)
    found = module.apply({"params": p}, DISTANCES)
    assert found.shape == (4, 4, 6)
    for h, i, j in np.ndindex(4, 4, 6):
        assert found[h, i, j] == p["table"][h, slow_bucket(int(DISTANCES[i, j]), 8, 12, bidirectional)]


def test_layers_share_a_table_that_is_not_theirs():
    """As one with the same table of its own; the scores of a layer without a model are refused."""
    x = np.random.default_rng(0).normal(size=(2, 6, 16)).astype(np.float32)
    of = lambda bias: AttentionConfig(H=4, K=4, rope=None, position_bias=bias, causal=False).build(1, "mixer")
    own, shared = of(BucketsConfig(8, 12, True)), of(SharedBucketsConfig(8, 12, True))
    here = Context(np.arange(6)[None])
    p = weights(own, x, here)
    table = p["position_bias"]["table"]
    without = {name: w for name, w in p.items() if name != "position_bias"}
    found, _ = shared.apply({"params": without}, x, dataclasses.replace(here, bias_1HA=table[None]))
    np.testing.assert_allclose(found, own.apply({"params": p}, x, here)[0], atol=1e-6)
    with pytest.raises(UserError, match="needs a model that owns its table"):
        shared.apply({"params": without}, x, here)
