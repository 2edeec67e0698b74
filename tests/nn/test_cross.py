import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import Context, CrossAttentionConfig, Memory
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import MESHES, name, on
from tests.weights import boxed, weights

RNG = np.random.default_rng(0)
B, T, S, D, M = 4, 3, 5, 12, 8  # the memory has a width of its own
X, MEMORY = RNG.normal(size=(B, T, D)).astype(np.float32), RNG.normal(size=(B, S, M)).astype(np.float32)
MASK = np.arange(S)[None] < np.array([5, 3, 1, 5])[:, None]


def context(memory=MEMORY, mask=MASK):
    return Context(np.arange(T)[None], memory_BSD=memory, memory_mask_BS=mask)


CONTEXT = context()

CONFIGS = {
    "plain": CrossAttentionConfig(H=4, K=6),
    "grouped": CrossAttentionConfig(H=4, K=6, G=2, scale=1.0, bias=True, bias_out=True),
}


def built(c):
    return c.build(3, "cross")


@pytest.mark.parametrize("c", CONFIGS.values(), ids=CONFIGS)
def test_it_is_the_formula_and_its_gradient(c):
    p = weights(built(c), X, CONTEXT)

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

    run = lambda p, x, memory: built(c).apply({"params": p}, x, context(memory))[0]

    def both(f):
        y, pull = jax.vjp(f, p, X, MEMORY)
        return y, pull(X)

    chex.assert_trees_all_close(jax.jit(lambda: both(run))(), jax.jit(lambda: both(loops))(), atol=1e-4)


@pytest.mark.parametrize("c", CONFIGS.values(), ids=CONFIGS)
def test_the_state_stands_for_the_memory(c):
    p = weights(built(c), X, CONTEXT)
    whole, state = built(c).apply({"params": p}, X, CONTEXT, c.init_cache(B, T, jnp.float32))
    assert [x.shape for x in state.value] == [(B, c.groups, S, c.K)] * 2 + [(B, S)]
    step = jax.jit(lambda x, state: built(c).apply({"params": p}, x, context(None), state))
    for t in range(T):
        y, new = step(X[:, t : t + 1], state)
        np.testing.assert_allclose(y, whole[:, t : t + 1], atol=1e-5)
        assert new == Memory() and state.write(new, t) is state


def test_without_a_mask_all_is_seen():
    c = CONFIGS["plain"]
    p = weights(built(c), X, CONTEXT)
    run = jax.jit(lambda mask: built(c).apply({"params": p}, X, context(mask=mask))[0])
    np.testing.assert_allclose(run(None), run(np.ones((B, S), bool)), atol=1e-6)
    assert np.abs(run(None)[1] - run(MASK)[1]).max() > 1e-3


def test_names_shapes_and_axes_of_the_weights():
    tree = boxed(built(CONFIGS["grouped"]), X, CONTEXT)
    heads = Axes(("embed", "heads", None), (0,))
    assert sharding.axes_of(tree) == {
        **{"q": heads, "k": heads, "v": heads, "o": Axes(("heads", None, "embed"), (0, 1)), "o_bias": Axes((None,))},
        **{f"{name}_bias": Axes(("heads", None)) for name in "qkv"},
    }
    shapes = jax.tree.map(lambda x: x.shape, sharding.unbox(tree))
    assert shapes["q"] == (D, 4, 6) and shapes["k"] == shapes["v"] == (M, 2, 6) and shapes["o"] == (4, 6, D)
    assert set(boxed(built(CONFIGS["plain"]), X, CONTEXT)) == set("qkvo")


@pytest.mark.parametrize("config", [*MESHES[4:6], MeshConfig(data=2, context=2, tensor=2)], ids=name)
def test_on_meshes(config):
    """The memory as it comes from an encoder whose stream is divided over positions."""
    c, memory = CONFIGS["grouped"], np.tile(MEMORY, (1, 4, 1))[:, :8]
    p, axes = weights(built(c), X, CONTEXT), sharding.axes_of(boxed(built(c), X, CONTEXT))
    apply = lambda p, x, memory, mask: built(c).apply({"params": p}, x, context(memory, mask))[0]
    run = jax.jit(jax.grad(lambda *args: jnp.mean(jnp.square(apply(*args))), (0, 1, 2)))
    mask = np.arange(8)[None] < np.array([8, 3, 1, 5])[:, None]
    x = np.tile(X, (1, 4, 1))
    expected = run(p, x, memory, mask)
    with on(config) as put:
        placed = {name: put(p[name], *axes[name].names) for name in p}
        args = put(x, *sharding.rows(12)), put(memory, *sharding.stream(8)), put(mask, "batch", None)
        chex.assert_trees_all_close(run(placed, *args), expected, rtol=1e-4, atol=1e-5)


def test_half_precision():
    c = CONFIGS["grouped"]
    p = weights(built(c), X, CONTEXT)
    y, state = built(c).apply({"params": p}, jnp.asarray(X, jnp.bfloat16), CONTEXT)
    assert {a.dtype for a in (y, *state.value[:2])} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_allclose(np.float32(y), built(c).apply({"params": p}, X, CONTEXT)[0], atol=0.2)


def test_what_makes_no_sense():
    with pytest.raises(UserError, match="G=4 key/value heads must divide H=6"):
        CrossAttentionConfig(H=6, K=4, G=4)
    c = CONFIGS["plain"]
    p = weights(built(c), X, CONTEXT)
    with pytest.raises(UserError, match="needs a memory, or the past"):
        built(c).apply({"params": p}, X, context(None))
