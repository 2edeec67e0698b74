import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.nn import AlibiConfig, BucketsConfig
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
