import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import ACTIVATIONS

FORMULAS = {
    "relu": lambda x: max(x, 0.0),
    "relu2": lambda x: max(x, 0.0) ** 2,
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + math.exp(-x)),
}


def test_every_activation_is_tested():
    assert set(FORMULAS) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", FORMULAS)
def test_it_is_the_formula(name):
    f, x = FORMULAS[name], np.linspace(-6, 6, 100)  # the corner of relu lies between two points
    y, slope = jax.jit(jax.vmap(jax.value_and_grad(ACTIVATIONS[name])))(np.float32(x))
    np.testing.assert_allclose(y, [f(v) for v in x], atol=2e-6, rtol=1e-5)
    np.testing.assert_allclose(slope, [(f(v + 1e-4) - f(v - 1e-4)) / 2e-4 for v in x], atol=1e-5)
    assert ACTIVATIONS[name](jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16
