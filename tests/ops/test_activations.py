import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import ACTIVATIONS, glu

FORMULAS = {
    "relu": lambda x: max(x, 0.0),
    "relu2": lambda x: max(x, 0.0) ** 2,
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "quick_gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "hardswish": lambda x: x * min(max(x + 3, 0.0), 6.0) / 6,
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "linear": lambda x: x,
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
}


def test_every_activation_is_tested():
    assert set(FORMULAS) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", FORMULAS)
def test_it_is_the_formula(name):
    f, x = FORMULAS[name], np.linspace(-7, 7, 100)  # corners lie between two points
    y, slope = jax.jit(jax.vmap(jax.value_and_grad(ACTIVATIONS[name])))(np.float32(x))
    np.testing.assert_allclose(y, [f(v) for v in x], atol=2e-6, rtol=1e-5)
    np.testing.assert_allclose(slope, [(f(v + 1e-4) - f(v - 1e-4)) / 2e-4 for v in x], atol=1e-5)
    assert ACTIVATIONS[name](jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("limit", [None, 0.7])
def test_gated(limit):
    gate, up = np.random.default_rng(0).normal(size=(2, 5, 40)).astype(np.float32)
    found = glu(jnp.asarray(gate), jnp.asarray(up), ACTIVATIONS["quick_gelu"], limit)
    if limit is not None:
        gate, up = np.minimum(gate, limit), np.maximum(np.minimum(up, limit), -limit) + 1
    np.testing.assert_allclose(found, gate / (1 + np.exp(-1.702 * gate)) * up, rtol=1e-5, atol=1e-6)
