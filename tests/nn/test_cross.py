import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import CrossAttentionConfig, Memory
from jaxlm.sharding import Axes
from tests.meshes import MESHES, name, on
from tests.weights import boxed, weights

RNG = np.random.default_rng(0)
B, T, S, D, M = 4, 3, 5, 12, 8  # the memory has a width of its own
X, MEMORY = RNG.normal(size=(B, T, D)).astype(np.float32), RNG.normal(size=(B, S, M)).astype(np.float32)
MASK = np.arange(S)[None] < np.array([5, 3, 1, 5])[:, None]

CONFIGS = {
    "plain": CrossAttentionConfig(H=4, K=6),
    "grouped": CrossAttentionConfig(H=4, K=6, G=2, scale=1.0, bias=True, bias_out=True),
}


def built(c):
    return c.build(3, "cross")


@pytest.mark.parametrize("c", CONFIGS.values(), ids=CONFIGS)
def test_it_is_the_formula_and_its_gradient(c):
    p = weights(built(c), X, MEMORY)

    def loops(p, x, memory):
        rows = []
        b_ = lambda name, h: p[f"{name}_bias"][h] if c.bias else np.zeros(c.K)
        for b, t in np.ndindex(B, T):
            y = p["o_bias"] if c.bias_out else 0
            for h in range(c.H):
                g = h // (c.H // c.groups)
                q = x[b, t] @ p["q"][:, h] + b_("q", h)
                seen = memory[b, : MASK[b].sum()]
                k, v = (seen @ p[name][:, g] + b_(name, g)[None] for name in "kv")
                y += jax.nn.softmax(k @ q * (c.K**-0.5 if c.scale is None else c.scale)) @ v @ p["o"][h]
            rows.append(y)
        return jnp.stack(rows).reshape(B, T, D)

    run = lambda p, x, memory: built(c).apply({"params": p}, x, memory, MASK)[0]

    def both(f):
        y, pull = jax.vjp(f, p, X, MEMORY)
        return y, pull(X)

    chex.assert_trees_all_close(jax.jit(lambda: both(run))(), jax.jit(lambda: both(loops))(), atol=1e-4)


@pytest.mark.parametrize("c", CONFIGS.values(), ids=CONFIGS)
def test_the_state_stands_for_the_memory(c):
    p = weights(built(c), X, MEMORY)
    whole, state = built(c).apply({"params": p}, X, MEMORY, MASK)
    assert [x.shape for x in state.value] == [(B, S, c.groups, c.K)] * 2 + [(B, S)]
    step = jax.jit(lambda x, state: built(c).apply({"params": p}, x, past=state))
    for t in range(T):
        y, new = step(X[:, t : t + 1], state)
        np.testing.assert_allclose(y, whole[:, t : t + 1], atol=1e-5)
        assert new == Memory() and state.write(new, t) is state


def test_without_a_mask_all_is_seen():
    c = CONFIGS["plain"]
    p = weights(built(c), X, MEMORY)
    run = jax.jit(lambda mask: built(c).apply({"params": p}, X, MEMORY, mask)[0])
    np.testing.assert_allclose(run(None), run(np.ones((B, S), bool)), atol=1e-6)
    assert np.abs(run(None)[1] - run(MASK)[1]).max() > 1e-3


def test_names_shapes_and_axes_of_the_weights():
    tree = boxed(built(CONFIGS["grouped"]), X, MEMORY)
    heads = Axes(("embed", "heads", None), (0,))
    assert sharding.axes_of(tree) == {
        **{"q": heads, "k": heads, "v": heads, "o": Axes(("heads", None, "embed"), (0, 1)), "o_bias": Axes((None,))},
        **{f"{name}_bias": Axes(("heads", None)) for name in "qkv"},
    }
    shapes = jax.tree.map(lambda x: x.shape, sharding.unbox(tree))
    assert shapes["q"] == (D, 4, 6) and shapes["k"] == shapes["v"] == (M, 2, 6) and shapes["o"] == (4, 6, D)
    assert set(boxed(built(CONFIGS["plain"]), X, MEMORY)) == set("qkvo")


@pytest.mark.parametrize("config", MESHES[4:6], ids=name)
def test_on_meshes(config):
    c = CONFIGS["grouped"]
    p, axes = weights(built(c), X, MEMORY), sharding.axes_of(boxed(built(c), X, MEMORY))
    run = jax.jit(jax.grad(lambda p, *args: jnp.sum(jnp.square(built(c).apply({"params": p}, *args)[0]))))
    expected = run(p, X, MEMORY, MASK)
    with on(config) as put:
        placed = {name: put(p[name], *axes[name].names) for name in p}
        args = put(X, "batch", None, None), put(MEMORY, "batch", None, None), put(MASK, "batch", None)
        chex.assert_trees_all_close(run(placed, *args), expected, rtol=1e-4, atol=1e-4)


def test_half_precision():
    c = CONFIGS["grouped"]
    p = weights(built(c), X, MEMORY)
    y, state = built(c).apply({"params": p}, jnp.asarray(X, jnp.bfloat16), MEMORY, MASK)
    assert {a.dtype for a in (y, *state.value[:2])} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(np.float32(y), built(c).apply({"params": p}, X, MEMORY, MASK)[0], atol=0.2)


def test_what_makes_no_sense():
    with pytest.raises(UserError, match="G=4 key/value heads must divide H=6"):
        CrossAttentionConfig(H=6, K=4, G=4)
    c = CONFIGS["plain"]
    p = weights(built(c), X, MEMORY)
    with pytest.raises(UserError, match="needs a memory, or the state"):
        built(c).apply({"params": p}, X)
