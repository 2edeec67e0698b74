import jax
import jax.numpy as jnp
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


def test_a_narrow_scale_around_one_is_added_in_float32():
    """1 + w has fewer digits of w in bfloat16, in which weights may be stored."""
    w = jnp.asarray(np.linspace(1e-3, 3e-2, 8), jnp.bfloat16)
    y = RMSNormConfig(zero_centered=True).build("norm").apply({"params": {"scale": w}}, X)
    np.testing.assert_allclose(y, rms_norm(X, 1 + np.float32(w)), rtol=1e-6)


def test_a_scale_around_one():
    """The weight is what the scale differs by: zero when fresh."""
    norm = RMSNormConfig(zero_centered=True).build("norm")
    fresh = sharding.unbox(norm.init(jax.random.key(0), X)["params"])
    np.testing.assert_array_equal(fresh["scale"], np.zeros(8))
    p = weights(norm, X)
    np.testing.assert_allclose(norm.apply({"params": p}, X), rms_norm(X, 1 + p["scale"]), rtol=1e-6)


@pytest.mark.parametrize("config", [RMSNormConfig(scale=False), LayerNormConfig(scale=False, bias=False)], ids=str)
def test_without_weights(config):
    norm = config.build("norm")
    assert norm.init(jax.random.key(0), X) == {}
    centred = X - X.mean(-1, keepdims=True) if isinstance(config, LayerNormConfig) else X
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config.eps)
    np.testing.assert_allclose(norm.apply({}, X), expected, atol=1e-5)


HEADS = np.random.default_rng(1).normal(1, 2, (2, 3, 4, 5)).astype(np.float32)


@pytest.mark.parametrize("config", [RMSNormConfig(), RMSNormConfig(zero_centered=True), LayerNormConfig()], ids=str)
@pytest.mark.parametrize("joint", [False, True])
def test_norms_of_heads(config, joint):
    """Every head has weights of its own; `joint` makes one mean of all of them."""
    norm, how = config.build("norm"), {"joint": True} if joint else {"per_head": True}
    axes = sharding.axes_of(norm.init(jax.random.key(0), HEADS, **how)["params"])
    assert set(axes.values()) == {Axes(("heads", None))}
    p = weights(norm, HEADS, **how)
    over, around = (2, 3) if joint else 3, getattr(config, "zero_centered", False)
    centred = HEADS - HEADS.mean(over, keepdims=True) if isinstance(config, LayerNormConfig) else HEADS
    y = centred / np.sqrt((centred**2).mean(over, keepdims=True) + config.eps)
    expected = y * (p["scale"] + around) + p.get("bias", 0)
    np.testing.assert_allclose(norm.apply({"params": p}, HEADS, **how), expected, atol=1e-5)
