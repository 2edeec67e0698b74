import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.nn.heads import keep, merge, split
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import lies, on
from tests.weights import boxed, weights

B, T, D, H, K = 4, 4, 8, 2, 3
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)


class Through(nn.Module):
    """Into heads and back, to a model of another width."""

    bias: bool
    depth: int = 3

    @nn.compact
    def __call__(self, x_BTD):
        y_BTHK = split(self, "in", x_BTD, H, K, self.bias)
        return y_BTHK, merge(self, "out", y_BTHK, 2 * D, self.depth, self.bias)


@pytest.mark.parametrize("bias", [False, True])
def test_products_with_every_heads_own_weights(bias):
    p = weights(Through(bias), X)
    assert set(p) == ({"in", "out", "in_bias", "out_bias"} if bias else {"in", "out"})
    heads, out = Through(bias).apply({"params": p}, X)
    expected = np.zeros((B, T, 2 * D)) + p.get("out_bias", 0)
    for h in range(H):
        one = X @ p["in"][:, h] + (p["in_bias"][h] if bias else 0)
        np.testing.assert_allclose(heads[:, :, h], one, atol=1e-5)
        expected += one @ p["out"][h]
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_names_shapes_and_axes_of_the_weights():
    tree = boxed(Through(True), X)
    assert sharding.axes_of(tree) == {
        **{"in": Axes(("embed", "heads", None), (0,)), "in_bias": Axes(("heads", None))},
        **{"out": Axes(("heads", None, "embed"), (0, 1)), "out_bias": Axes((None,))},
    }


def test_deeper_models_begin_with_smaller_branches():
    fresh = lambda depth: Through(False, depth).init(jax.random.key(0), X)["params"]["out"].value
    np.testing.assert_allclose(fresh(2), 2 * fresh(8), rtol=1e-5)


@pytest.mark.parametrize("explicit", [True, False])
def test_heads_lie_over_the_mesh(explicit):
    p, axes = weights(Through(True), X), sharding.axes_of(boxed(Through(True), X))
    expected = Through(True).apply({"params": p}, X)
    with on(MeshConfig(2, 2, 2, explicit=explicit)) as put:
        placed = {name: put(p[name], *axes[name].names) for name in p}
        heads, out = jax.jit(lambda p, x: Through(True).apply({"params": p}, x))(placed, put(X, "batch", None, None))
        if explicit:
            assert lies(heads, "batch", None, "heads", None) and lies(out, *sharding.stream(T))
    np.testing.assert_allclose(heads, expected[0], atol=1e-5)
    np.testing.assert_allclose(out, expected[1], atol=1e-5)


def test_what_is_kept_is_not_computed_again():
    """Under its name, by the policy that knows it."""
    f = lambda x: jnp.sin(keep(jnp.cos(x))[0])
    policy = jax.checkpoint_policies.save_only_these_names("qkv")
    count = lambda p: str(jax.make_jaxpr(jax.grad(jax.checkpoint(f, policy=p)))(1.0)).count("cos ")
    assert count(policy) < count(jax.checkpoint_policies.nothing_saveable)
