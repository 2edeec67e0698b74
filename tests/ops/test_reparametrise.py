"""Networks that compute virtual tokens, against loops over tokens in numpy."""

import jax
import numpy as np
import pytest

from jaxlm.ops.reparametrise import fresh

n, D, K = 5, 6, 4
sigmoid = lambda x: 1 / (1 + np.exp(-x))
relu = lambda x: np.maximum(x, 0)


def lstm(x_nD, w):
    """Gates i, f, g, o."""
    h, c, found = np.zeros(K), np.zeros(K), []
    for x in x_nD:
        i, f, g, o = (x @ w["x"][:, j] + h @ w["h"][:, j] + w["bias"][j] for j in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        found.append(h)
    return np.array(found)


@pytest.mark.parametrize(("kind", "shape"), [("prefix", (n, 4, 2, 3)), ("mlp", (n, D)), ("lstm", (n, D))])
def test_it_is_the_network(kind, shape):
    leaf = jax.jit(lambda: fresh(jax.random.key(0), kind, D, K, shape))()
    w, x = jax.tree.map(np.asarray, leaf.weights), np.asarray(leaf.embedding)
    layer = lambda x, name: np.tensordot(x, w[name], 1) + w[f"{name}_bias"]
    if kind == "prefix":
        x = layer(np.tanh(layer(x, "first")), "last")
    elif kind == "mlp":
        x = layer(relu(layer(relu(layer(x, "first")), "second")), "last")
    else:
        for i in range(2):
            ahead, back = lstm(x, w[f"ahead_{i}"]), lstm(x[::-1], w[f"back_{i}"])[::-1]
            x = np.concatenate([ahead, back], -1)
        x = layer(relu(layer(x, "second")), "last")
    assert leaf.dense().shape == shape
    np.testing.assert_allclose(leaf.dense(), x, atol=1e-5)
