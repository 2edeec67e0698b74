import chex
import jax
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import AdditiveAttentionConfig
from jaxlm.ops import additive_attention
from jaxlm.sharding import Axes
from tests.weights import boxed, weights

RNG = np.random.default_rng(0)
X, MEMORY = (RNG.normal(size=shape).astype(np.float32) for shape in ((2, 3, 6), (2, 5, 8)))
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
MODULE = AdditiveAttentionConfig(F=4).build("attention")


def test_it_projects_and_scores():
    p = weights(MODULE, X, MEMORY)
    run = jax.jit(lambda *args: MODULE.apply({"params": p}, *args))
    c, shares, key = run(X, MEMORY, MASK)
    np.testing.assert_allclose(key, MEMORY @ p["key"], atol=1e-5)
    expected = additive_attention(X @ p["query"], MEMORY @ p["key"], MEMORY, p["score"], MASK)
    chex.assert_trees_all_close((c, shares), expected, atol=1e-5)
    # One query at a time, the memory projected once.
    parts = [MODULE.apply({"params": p}, X[:, t : t + 1], MEMORY, MASK, key)[0] for t in range(3)]
    np.testing.assert_allclose(np.concatenate(parts, 1), c, atol=1e-5)


def test_names_shapes_and_axes_of_the_weights():
    tree = boxed(MODULE, X, MEMORY)
    project = Axes(("embed", None), (0,))
    assert sharding.axes_of(tree) == {"query": project, "key": project, "score": Axes((None,), (0,))}
    shapes = jax.tree.map(lambda x: x.shape, sharding.unbox(tree))
    assert shapes == {"query": (6, 4), "key": (8, 4), "score": (4,)}


def test_no_hidden_units():
    with pytest.raises(UserError, match="F=0 must be at least 1"):
        AdditiveAttentionConfig(F=0)
