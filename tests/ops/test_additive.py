import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import additive_attention, multiplicative_attention
from tests.meshes import MESHES, name, on

RNG = np.random.default_rng(0)
B, T, S, F, D = 2, 3, 5, 4, 6


def draw(*shape):
    return RNG.normal(size=shape).astype(np.float32)


QUERY, KEY, VALUES, SCORE, CHANGE = draw(B, T, F), draw(B, S, F), draw(B, S, D), draw(F), draw(B, T, D)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)


def test_it_is_the_formula_forward_and_backward():
    def loops(query, key, values, score):
        rows = []
        for b, t in np.ndindex(B, T):
            s = [jnp.dot(score, jnp.tanh(query[b, t] + key[b, i])) for i in np.flatnonzero(MASK[b])]
            rows.append(sum(p * values[b, i] for i, p in enumerate(jax.nn.softmax(jnp.stack(s)))))
        return jnp.stack(rows).reshape(B, T, D)

    def both(f):
        c, pull = jax.vjp(f, QUERY, KEY, VALUES, SCORE)
        return c, pull(CHANGE)

    found = jax.jit(lambda: both(lambda *args: additive_attention(*args, MASK)[0]))()
    chex.assert_trees_all_close(found, jax.jit(lambda: both(loops))(), atol=1e-5)


def test_weights_are_shares_of_what_may_be_seen():
    c, p = additive_attention(QUERY, KEY, VALUES, SCORE, MASK)
    assert p.dtype == jnp.float32
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(p > 0, np.broadcast_to(MASK[:, None], p.shape))
    np.testing.assert_allclose(c, np.einsum("bts,bsd->btd", p, VALUES), atol=1e-6)
    everything = additive_attention(QUERY, KEY, VALUES, SCORE, np.ones_like(MASK))
    chex.assert_trees_all_close(additive_attention(QUERY, KEY, VALUES, SCORE), everything)


def test_a_row_of_padding_gives_finite_numbers():
    f = lambda query: additive_attention(query, KEY, VALUES, SCORE, np.zeros_like(MASK))[0].sum()
    chex.assert_tree_all_finite(jax.jit(jax.value_and_grad(f))(QUERY))


def test_half_precision():
    half = [jnp.asarray(x, jnp.bfloat16) for x in (QUERY, KEY, VALUES)]
    c, p = additive_attention(*half, SCORE, MASK)
    assert c.dtype == jnp.bfloat16 and p.dtype == jnp.float32
    np.testing.assert_allclose(np.float32(c), additive_attention(QUERY, KEY, VALUES, SCORE, MASK)[0], atol=5e-2)


@pytest.mark.parametrize("config", MESHES[4:6], ids=name)
def test_on_meshes(config):
    f = jax.jit(lambda *args: additive_attention(*args[:3], SCORE, args[3]))
    rows = [np.concatenate([x] * 2) for x in (QUERY, KEY, VALUES, MASK)]
    with on(config) as put:
        found = f(*[put(x, "batch", *[None] * (x.ndim - 1)) for x in rows])
    chex.assert_trees_all_close(found, f(*rows), atol=1e-6)


def test_products_as_scores():
    key, values = KEY, VALUES
    c, p = multiplicative_attention(QUERY, key, values, MASK)
    for b, t in np.ndindex(B, T):
        seen = np.flatnonzero(MASK[b])
        e = np.exp([QUERY[b, t] @ key[b, s] for s in seen])
        np.testing.assert_allclose(p[b, t, seen], e / e.sum(), atol=1e-6)
        np.testing.assert_allclose(c[b, t], e / e.sum() @ values[b, seen], atol=1e-5)
    assert not p[1, :, 3:].any()
