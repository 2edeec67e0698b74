import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import MLPConfig
from jaxlm.sharding import Axes
from tests.weights import boxed, weights

D, F = 6, 10
X = np.random.default_rng(0).normal(size=(2, 3, D)).astype(np.float32)
IN, OUT = Axes(("embed", "mlp"), (0,)), Axes(("mlp", "embed"), (0,))


def silu(x):
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_formula(gated, bias):
    mlp = MLPConfig(F, "silu" if gated else "relu", gated, bias).build(3, "ffn")
    axes = {"up": IN, "down": OUT}
    if gated:
        axes["gate"] = IN
    if bias:
        axes |= {f"{name}_bias": Axes((axes[name].names[1] if name != "down" else None,)) for name in tuple(axes)}
    assert sharding.axes_of(boxed(mlp, X)) == axes
    p = weights(mlp, X)
    b = {name: p.get(f"{name}_bias", 0) for name in ("gate", "up", "down")}
    up = X @ p["up"] + b["up"]
    h = silu(X @ p["gate"] + b["gate"]) * up if gated else np.maximum(up, 0)
    y, statistics = mlp.apply({"params": p}, X)
    np.testing.assert_allclose(y, h @ p["down"] + b["down"], atol=1e-5)
    assert statistics == {}


def test_the_clamped_form():
    mlp = MLPConfig(F, "quick_gelu", limit=0.4).build(3, "ffn")
    p = weights(mlp, X)
    gate, up = np.minimum(X @ p["gate"], 0.4), np.clip(X @ p["up"], -0.4, 0.4)
    h = (up + 1) * gate / (1 + np.exp(-1.702 * gate))
    np.testing.assert_allclose(mlp.apply({"params": p}, X)[0], h @ p["down"], atol=1e-5)
    for wrong in ({"limit": 1.0, "gated": False}, {"limit": 0.0}):
        with pytest.raises(UserError, match=r"clamps only gated layers|limit=0.0 must be above 0"):
            MLPConfig(F, **wrong)


def test_weights_are_float32_and_matmuls_as_the_input():
    mlp = MLPConfig(F, bias=True).build(3, "ffn")
    half = jnp.asarray(X, jnp.bfloat16)
    p = weights(mlp, half)
    assert {x.dtype for x in p.values()} == {np.dtype("float32")}
    y = mlp.apply({"params": p}, half)[0]
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(y), mlp.apply({"params": p}, X)[0], atol=5e-2)


def test_an_unknown_activation():
    with pytest.raises(UserError, match="unknown activation 'sillu': did you mean 'silu'"):
        MLPConfig(F, "sillu")
