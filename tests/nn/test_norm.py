import jax
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.nn import LayerNormConfig, RMSNormConfig
from jaxlm.ops import layer_norm, rms_norm
from jaxlm.sharding import Axes
from tests.weights import weights

X = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)


@pytest.mark.parametrize(
    "config, names, formula",
    [
        (RMSNormConfig(eps=0.1), {"scale"}, lambda p: rms_norm(X, p["scale"], 0.1)),
        (LayerNormConfig(eps=0.1), {"scale", "bias"}, lambda p: layer_norm(X, p["scale"], p["bias"], 0.1)),
        (LayerNormConfig(bias=False), {"scale"}, lambda p: layer_norm(X, p["scale"], None, 1e-5)),
    ],
    ids=["rms", "layer", "layer-without-bias"],
)
def test_a_norm_owns_its_scale_and_bias(config, names, formula):
    norm = config.build("norm")
    boxed = norm.init(jax.random.key(0), X)["params"]
    assert sharding.axes_of(boxed) == {name: Axes((None,)) for name in names}
    fresh = sharding.unbox(boxed)
    np.testing.assert_array_equal(fresh["scale"], np.ones(8))
    np.testing.assert_array_equal(fresh.get("bias", np.zeros(8)), np.zeros(8))
    params = weights(norm, X)
    np.testing.assert_array_equal(norm.apply({"params": params}, X), formula(params))
