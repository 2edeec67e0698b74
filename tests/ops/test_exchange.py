"""What goes where: slots to the owners of their experts, tokens to everybody, sums back, and parts of experts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.ops import exchange
from jaxlm.sharding import MeshConfig
from tests.meshes import on

X, Q, D = 4, 3, 2  # owners, in each of two groups; slots of an expert on a device
E = 2 * X
MESHES = [MeshConfig(2, expert=X, explicit=explicit) for explicit in (True, False)]
ROWS = ("batch", None, None)


def run(f, config, *xs):
    """f on every device's part of arrays whose rows are divided."""
    with on(config) as put:
        ins = [ROWS[: x.ndim] for x in xs]
        return jax.jit(lambda *xs: sharding.shard_map(f, ins, ROWS, *xs))(*(put(x, *n) for x, n in zip(xs, ins)))


@pytest.mark.parametrize("config", MESHES, ids=["explicit", "auto"])
def test_slots_go_to_their_owners_and_back(config):
    x = np.random.default_rng(0).normal(size=(2, X, E, Q, D)).astype(np.float32)  # group, device, expert, slot
    there = run(exchange.to_owners, config, x.reshape(-1, Q, D))
    owned = x.reshape(2, X, X, 2, Q, D).transpose(0, 2, 3, 1, 4, 5)  # group, owner, its expert, device
    np.testing.assert_array_equal(there, owned.reshape(-1, X * Q, D))
    again = run(lambda x: exchange.from_owners(exchange.to_owners(x)), config, x.reshape(-1, Q, D))
    np.testing.assert_array_equal(again, x.reshape(-1, Q, D))


def test_without_a_mesh_every_device_is_an_owner():
    x = jnp.ones((E, Q, D))
    assert exchange.to_owners(x) is x and exchange.from_owners(x) is x


@pytest.mark.parametrize("config", MESHES, ids=["explicit", "auto"])
def test_tokens_are_shown_to_all_and_results_added(config):
    x = np.random.default_rng(0).normal(size=(2, X, Q, D)).astype(np.float32)
    seen = run(exchange.gathered, config, x.reshape(-1, Q, D))
    np.testing.assert_array_equal(seen, np.repeat(x, X, 0).reshape(-1, Q, D))
    each = lambda x: exchange.summed(exchange.gathered(x) * (1 + jax.lax.axis_index("expert")))
    np.testing.assert_allclose(run(each, config, x.reshape(-1, Q, D)), x.reshape(-1, Q, D) * 10, rtol=1e-6)


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("T", [8, 6, 5])  # divided over context and tensor, over context alone, over neither
def test_parts_of_experts_make_the_product_of_the_whole(T, explicit):
    """In value and gradient; each device has a part of the weight's width and of its hidden width."""
    rng = np.random.default_rng(0)
    x_BTD, w_XED = (rng.normal(0, 0.3, size).astype(np.float32) for size in ((2, T, 4), (3, 8, 4)))
    names = (None, "mlp", "expert_embed")

    def local(x_btD, w_Xed):
        w_Xed, x_btD = exchange.alike(w_Xed, x_btD)
        w_XeD = exchange.whole_width(w_Xed, names)
        return exchange.into_stream(jnp.einsum("btd,xed,xef->btf", x_btD, w_XeD, w_XeD), T)

    def loss(x_BTD, w_XED):
        y_BTD = sharding.shard_map(local, [sharding.rows(T), names], sharding.stream(T), x_BTD, w_XED)
        return jnp.sum(jnp.sin(y_BTD)), y_BTD

    def whole(x_BTD, w_XED):
        y_BTD = jnp.einsum("btd,xed,xef->btf", x_BTD, w_XED, w_XED)
        return jnp.sum(jnp.sin(y_BTD)), y_BTD

    grad = lambda f: jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))
    (_, expected), expected_grads = grad(whole)(x_BTD, w_XED)
    with on(MeshConfig(1, fsdp=2, context=2, tensor=2, explicit=explicit)) as put:
        (_, found), grads = grad(loss)(put(x_BTD, *sharding.rows(T)), put(w_XED, *names))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    for one, other in zip(grads, expected_grads):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("A", [1, 2, 3, 5])
def test_own_choices(A):
    """Of any number of choices, those of the device's two experts."""
    rng, M = np.random.default_rng(0), 16
    ids = np.argsort(rng.random((M, E)))[:, :A].astype(np.int32)
    weights = rng.random((M, A)).astype(np.float32)

    def own(weights_MA, ids_MA):
        weights_MA, ids_MA = exchange.own(weights_MA, ids_MA, 2)
        assert ids_MA.shape == (2, min(A, 2))
        table_ME = jnp.zeros((2, 3)).at[jnp.arange(2)[:, None], ids_MA].add(weights_MA)
        return table_ME[None, :, :2]  # what each of its experts is given of every token

    found = np.asarray(run(own, MESHES[0], weights, ids))
    for device in range(8):
        for m in range(2):
            row, first = 2 * device + m, 2 * (device % X)
            expected = [sum(weights[row][ids[row] == first + e]) for e in (0, 1)]
            np.testing.assert_allclose(found[device, m], expected, rtol=1e-6)
