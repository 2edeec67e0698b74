import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops.mla import latent_attention_with_past
from tests.ops.attention_cases import naive

RNG = np.random.default_rng(0)
B, T, S, H, K, R, L, J = 2, 3, 7, 4, 6, 2, 5, 3
draw = lambda *shape: RNG.normal(size=shape).astype(np.float32)
Q, TURNED, C, ROTATED = draw(B, T, H, K), draw(B, T, H, R), draw(B, S + T, L), draw(B, S + T, R)
UP_K, UP_V = draw(L, H, K), draw(L, H, J)
HELD = np.arange(S)[None, None] < np.array([S, 4])[:, None, None]  # the second row's cache is half full
MASK = np.concatenate([np.broadcast_to(HELD, (B, T, S)), np.broadcast_to(np.tri(T, dtype=bool), (B, T, T))], -1)


@jax.jit
def absorbed(q, turned, c, r, up_k, up_v, mask=MASK):
    q_BTHL = jnp.einsum("bthk,lhk->bthl", q, up_k)
    past, new = (c[:, :S], r[:, :S]), (c[:, S:], r[:, S:])
    o_BTHL = latent_attention_with_past(q_BTHL, turned, past, new, mask[..., :S], mask[..., S:], 0.3)
    return jnp.einsum("bthl,lhj->bthj", o_BTHL, up_v)


@jax.jit
def expanded(q, turned, c, r, up_k, up_v):
    """Every head has its own keys and values, made of the latents."""
    k = jnp.concatenate([jnp.einsum("bsl,lhk->bshk", c, up_k), jnp.repeat(r[:, :, None], H, 2)], -1)
    s = 0.3 * jnp.einsum("bthk,bshk->bhts", jnp.concatenate([q, turned], -1), k)
    p = jax.nn.softmax(jnp.where(MASK[:, None], s, -jnp.inf), -1)
    return jnp.einsum("bhts,bshj->bthj", p, jnp.einsum("bsl,lhj->bshj", c, up_v))


ARGS = Q, TURNED, C, ROTATED, UP_K, UP_V


def test_it_is_attention_to_the_keys_and_values_of_all_heads():
    k = np.concatenate([np.einsum("bsl,lhk->bshk", C, UP_K), np.repeat(ROTATED[:, :, None], H, 2)], -1)
    v = np.einsum("bsl,lhj->bshj", C, UP_V)
    expected = naive(np.concatenate([Q, TURNED], -1), k, v, MASK, 0.3)
    np.testing.assert_allclose(absorbed(*ARGS), expected, atol=1e-5)
    np.testing.assert_allclose(expanded(*ARGS), expected, atol=1e-5)


def test_gradients_are_those_of_the_expanded_form():
    found, expected = (jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), range(6))(*ARGS) for f in (absorbed, expanded))
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_what_is_masked_leaves_no_mark():
    garbage = C.copy(), ROTATED.copy()
    for x in garbage:
        x[1, 4:S] = 1e3
    np.testing.assert_allclose(absorbed(Q, TURNED, *garbage, UP_K, UP_V), absorbed(*ARGS), atol=1e-6)


@pytest.mark.parametrize("cache", [jnp.bfloat16, jnp.float32])
def test_the_result_has_the_dtype_of_the_queries(cache):
    o = latent_attention_with_past(
        jnp.ones((B, T, H, L), jnp.bfloat16),
        jnp.ones((B, T, H, R), jnp.bfloat16),
        (jnp.ones((B, S, L), cache), jnp.ones((B, S, R), cache)),
        (jnp.ones((B, T, L), jnp.bfloat16), jnp.ones((B, T, R), jnp.bfloat16)),
        MASK[..., :S],
        MASK[..., S:],
        0.3,
    )
    assert o.dtype == jnp.bfloat16 and o.shape == (B, T, H, L)
    np.testing.assert_allclose(np.float32(o), 1, rtol=1e-2)
