"""Recurrent decoders with attention: written out in loops, in parts, packed, padded, on a mesh, and their gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.decode import cache
from jaxlm.errors import UserError
from jaxlm.nn import BahdanauConfig, Context, LuongConfig
from tests.meshes import MESHES, name, on
from tests.weights import boxed, weights

B, T, S, D, Z = 4, 5, 6, 8, 8
RNG = np.random.default_rng(0)
X, MEMORY = (RNG.normal(size=(B, n, D)).astype(np.float32) for n in (T, S))
LENGTHS = np.array([6, 4, 1, 3])
MASK = np.arange(S)[None] < LENGTHS[:, None]
POSITIONS = np.arange(T)[None]
CONTEXT = Context(POSITIONS, memory_BSD=MEMORY, memory_mask_BS=MASK)
CONFIGS = {
    "bahdanau gru": BahdanauConfig(Z, F=6),
    "bahdanau lstm": BahdanauConfig(Z, F=6, cell="lstm"),
    "luong dot": LuongConfig(Z, score="dot", cell="rnn"),
    "luong general": LuongConfig(Z, cell="lstm"),
    "luong concat": LuongConfig(Z, F=6, score="concat", feed=False),
}
ALL = pytest.mark.parametrize("c", CONFIGS.values(), ids=CONFIGS)
SOME = pytest.mark.parametrize("c", list(CONFIGS.values())[::3], ids=list(CONFIGS)[::3])  # of each kind, each cell
sigmoid = lambda x: 1 / (1 + np.exp(-x))


def built(c):
    return c.build(3, "mixer")


def slow(c, p, x_TD, memory_SE):
    """One text and its memory, step by step: what comes out, and the alignment."""

    def cell(x_nZ, h, cells):
        u_nZ = np.einsum("k,knz->nz", h, p["h"][0])
        if c.cell == "rnn":
            return np.tanh(x_nZ[0] + u_nZ[0]), cells
        if c.cell == "gru":
            r, z = sigmoid(x_nZ[:2] + u_nZ[:2])
            return (1 - z) * np.tanh(x_nZ[2] + r * u_nZ[2]) + z * h, cells
        i, f, g, o = x_nZ + u_nZ
        cells = sigmoid(f) * cells + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(cells), cells

    def score(h, m):
        if c.F:
            return p["score"] @ np.tanh(h @ p["query"] + m @ p["key"])
        return h @ (m if c.score == "dot" else m @ p["key"])

    def attend(h):
        e = np.exp([score(h, m) for m in memory_SE])
        return e / e.sum() @ memory_SE, e / e.sum()

    h, cells, g = np.tanh(memory_SE.mean(0) @ p["begin"]), np.zeros(Z), np.zeros(Z)
    ys, shares = [], []
    for x in x_TD:
        x_nZ = np.einsum("d,dnz->nz", x, p["x"]) + p["bias"]
        if isinstance(c, BahdanauConfig):
            seen, a = attend(h)
            h, cells = cell(x_nZ + np.einsum("e,enz->nz", seen, p["context"]), h, cells)
            out = np.concatenate([h, seen])
        else:
            if c.feed:
                x_nZ = x_nZ + np.einsum("k,knz->nz", g, p["feed"])
            h, cells = cell(x_nZ, h, cells)
            seen, a = attend(h)
            out = g = np.tanh(np.concatenate([h, seen]) @ p["mix"])
        ys.append(out @ p["o"][0])
        shares.append(a)
    return np.stack(ys), np.stack(shares)


@ALL
def test_it_is_the_equations(c):
    p = weights(built(c), X, CONTEXT)
    y, _, a = jax.jit(lambda p: built(c).apply({"params": p}, X, CONTEXT, method="aligned"))(p)
    assert a.shape == (B, T, S) and a.dtype == jnp.float32
    for b, n in enumerate(LENGTHS):
        wanted, shares = slow(c, p, X[b], MEMORY[b, :n])
        np.testing.assert_allclose(y[b], wanted, atol=1e-5)
        np.testing.assert_allclose(a[b, :, :n], shares, atol=1e-6)
        assert not a[b, :, n:].any()


@SOME
def test_token_by_token_is_the_whole(c):
    """With the memory read once."""
    p = weights(built(c), X, CONTEXT)
    apply = jax.jit(lambda x, context, past: built(c).apply({"params": p}, x, context, past))
    whole, _ = apply(X, CONTEXT, None)
    _, new = apply(X[:, :2], CONTEXT, None)
    past = cache.write(c.init_cache(B, T, jnp.float32), new, jnp.int32(0))
    for t in range(2, T):
        y, new = apply(X[:, t : t + 1], Context(np.full((B, 1), t), np.ones((B, 1), np.int32)), past)
        np.testing.assert_allclose(y[:, 0], whole[:, t], atol=1e-5)
        past = cache.write(past, new, jnp.int32(t))


@SOME
def test_packed_texts_are_as_alone(c):
    """Two texts in a row, with padding behind: what comes out, and all gradients."""
    p = weights(built(c), X, CONTEXT)
    segments, memory_segments = np.array([[1, 1, 2, 2, 0]]), np.array([[1, 1, 1, 2, 2, 0]])
    packed = Context(POSITIONS, segments, memory_BSD=MEMORY[:1], memory_segments_BS=memory_segments)
    alone = lambda t, s: (X[:1, t], Context(POSITIONS[:, t], memory_BSD=MEMORY[:1, s]))
    run = lambda p, *args: built(c).apply({"params": p}, *args)[0]
    together = lambda p: run(p, X[:1], packed)[:, :4]
    apart = lambda p: jnp.concatenate(
        [run(p, *alone(slice(0, 2), slice(0, 3))), run(p, *alone(slice(2, 4), slice(3, 5)))], 1
    )
    mix = RNG.normal(size=(1, 4, D))
    both = lambda f: jax.jit(jax.value_and_grad(lambda p: (f(p) * mix).sum()))(p)
    chex.assert_trees_all_close(both(together), both(apart), atol=1e-4)


def test_padding_on_the_left_changes_nothing():
    c = CONFIGS["bahdanau gru"]
    p = weights(built(c), X, CONTEXT)
    left = np.array([[0, 0, 1, 1, 1]] * B)
    y = lambda x, segments: built(c).apply(
        {"params": p}, x, Context(POSITIONS, segments, memory_BSD=MEMORY, memory_mask_BS=MASK)
    )[0]
    np.testing.assert_allclose(y(X, left)[:, 2:], y(np.roll(X, -2, 1), np.ones_like(left))[:, :3], atol=1e-5)


@pytest.mark.parametrize("mesh", MESHES[4:6], ids=name)
def test_on_meshes(mesh):
    c = CONFIGS["luong general"]
    axes, p = sharding.axes_of(boxed(built(c), X, CONTEXT)), weights(built(c), X, CONTEXT)
    segments = np.array([[1, 1, 2, 2, 0]] * B)

    def loss(p, x, memory, segments):
        context = Context(POSITIONS, segments, memory_BSD=memory, memory_segments_BS=segments)
        return jnp.sum(built(c).apply({"params": p}, x, context)[0] ** 2)

    run = lambda *args: jax.device_get(jax.jit(jax.value_and_grad(loss))(*args))
    wanted = run(p, X, X[::-1], segments)
    with on(mesh) as put:
        placed = jax.tree.map(lambda a, w: put(w, *a.names), axes, p, is_leaf=lambda a: isinstance(a, sharding.Axes))
        rows = [put(x, "batch", *[None] * (x.ndim - 1)) for x in (X, X[::-1], segments)]
        found = run(placed, *rows)
    chex.assert_trees_all_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_half_precision():
    c = CONFIGS["luong general"]
    p = weights(built(c), X, CONTEXT)
    run = lambda dtype: built(c).apply({"params": p}, X.astype(dtype), CONTEXT)
    y, state = run(jnp.bfloat16)
    assert y.dtype == jnp.bfloat16 and all(h.dtype == jnp.float32 for h in state["state"].value)
    np.testing.assert_allclose(np.float32(y), run(np.float32)[0], atol=0.1)


def test_what_cannot_be():
    with pytest.raises(UserError, match="additive and concat need hidden units"):
        BahdanauConfig(Z)
    with pytest.raises(UserError, match="dot and general have none"):
        LuongConfig(Z, F=3)
    with pytest.raises(UserError, match="has no dot product with a memory of 8"):
        built(LuongConfig(4, score="dot")).init(jax.random.key(0), X, CONTEXT)
    with pytest.raises(UserError, match="needs a memory"):
        built(LuongConfig(4)).init(jax.random.key(0), X, Context(POSITIONS))
