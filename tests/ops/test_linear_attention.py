import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import (
    causal_linear_attention,
    elu_features,
    linear_attention,
    linear_attention_step,
    orthogonal_directions,
    positive_features,
    reference_attention,
)
from tests.meshes import MESHES, name, on

RNG = np.random.default_rng(0)
B, T, H, Z, J = 2, 13, 3, 4, 5
Q, K = (RNG.uniform(0.1, 2, size=(B, T, H, Z)).astype(np.float32) for _ in range(2))
V, CHANGE = (RNG.normal(size=(B, T, H, J)).astype(np.float32) for _ in range(2))
SEGMENTS = np.array([[1] * 5 + [2] * 6 + [3] * 2, [0] * 6 + [1] * 7], np.int32)
CAUSAL = np.tril(np.ones((1, T, T), bool))
PACKED = CAUSAL & (SEGMENTS[:, :, None] == SEGMENTS[:, None])


def quadratic(q, k, v, mask):
    """All weights at once; `loops` is the check on it."""
    p = jnp.where(mask[:, None], jnp.einsum("bthz,bshz->bhts", q, k), 0)
    return jnp.einsum("bhts,bshj->bthj", p / p.sum(-1, keepdims=True), v)


def test_the_quadratic_form_is_the_formula():
    o = np.zeros((B, T, H, J))
    for b, t, h in np.ndindex(B, T, H):
        seen = np.flatnonzero(PACKED[b, t])
        weight = [Q[b, t, h] @ K[b, s, h] for s in seen]
        o[b, t, h] = sum(w * V[b, s, h] for w, s in zip(weight, seen)) / sum(weight)
    np.testing.assert_allclose(quadratic(Q, K, V, PACKED), o, atol=1e-5)


def both(f):
    @jax.jit
    def run(*args):
        o, pull = jax.vjp(f, *args)
        return o, pull(CHANGE)

    return run(Q, K, V)


@pytest.mark.parametrize("chunk", [1, 4, 128])
@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["whole", "packed"])
def test_chunks_equal_the_quadratic_form(chunk, segments):
    """Four chunks of which the last is ragged, and texts that end within, and at the end of, a chunk."""
    found = both(lambda *args: causal_linear_attention(*args, segments, chunk=chunk)[0])
    expected = both(lambda *args: quadratic(*args, CAUSAL if segments is None else PACKED))
    chex.assert_trees_all_close(found, expected, atol=2e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_not_causal(padded):
    mask = np.arange(T)[None] < np.array([[T], [6]]) if padded else None
    seen = np.ones((B, T), bool) if mask is None else mask
    found = both(lambda *args: linear_attention(*args, mask))
    chex.assert_trees_all_close(found, both(lambda *args: quadratic(*args, seen[:, None])), atol=2e-5)


def test_a_query_that_sees_nothing_gives_zero():
    f = lambda q: linear_attention(q, K, V, np.zeros((B, T), bool)).sum()
    value, gradient = jax.jit(jax.value_and_grad(f))(Q)
    assert value == 0 and not np.any(gradient)


def test_one_token_at_a_time():
    """After six tokens at once, from the state behind the last text of each row."""
    whole, last = causal_linear_attention(Q, K, V, SEGMENTS)
    _, state = causal_linear_attention(Q[:, :11], K[:, :11], V[:, :11], SEGMENTS[:, :11], chunk=4)
    assert state.shape == (B, H, Z, J + 1) and state.dtype == jnp.float32
    np.testing.assert_allclose(state[0, :, :, -1], K[0, 5:11].sum(0), rtol=1e-5)  # segment 2 only
    _, middle = causal_linear_attention(Q[1:, :8], K[1:, :8], V[1:, :8], SEGMENTS[1:, :8])
    step, state = jax.jit(linear_attention_step), middle
    for t in range(8, T):
        o, state = step(Q[1:, t], K[1:, t], V[1:, t], state)
        np.testing.assert_allclose(o, whole[1:, t], atol=1e-5)
    chex.assert_trees_all_close(state, last[1:], atol=1e-5)
    rest, state = causal_linear_attention(Q[1:, 8:], K[1:, 8:], V[1:, 8:], state_BHZJ=middle, chunk=2)
    chex.assert_trees_all_close((rest, state), (whole[1:, 8:], last[1:]), atol=1e-5)


def test_no_gradient_flows_from_an_output_to_what_it_may_not_see():
    f = lambda k, v: causal_linear_attention(Q, k, v, SEGMENTS, chunk=4)[0].sum((2, 3))
    _, pull = jax.vjp(f, K, V)
    for b in range(B):
        through = jax.vmap(lambda row: pull(jnp.zeros((B, T)).at[b].set(row)))(jnp.eye(T))  # noqa: B023 (called at once)
        k, v = (np.abs(x[:, b]).sum((2, 3)) > 1e-7 for x in through)
        np.testing.assert_array_equal(v, PACKED[b])
        assert not (k & ~PACKED[b]).any()


def test_memory_is_linear_and_the_state_constant():
    def memory(T):
        x = jax.ShapeDtypeStruct((1, T, 1, 16), jnp.float32)
        f = lambda *args: causal_linear_attention(*args, chunk=64)[0].sum()
        return jax.jit(jax.grad(f, (0, 1, 2))).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes

    assert memory(4096) <= 4.4 * memory(1024)
    state = lambda T: jax.eval_shape(lambda x: causal_linear_attention(x, x, x)[1], jnp.zeros((1, T, 1, 16))).shape
    assert state(1) == state(1000) == (1, 1, 16, 17)


def test_elu_features():
    x = np.array([-2.0, 0.0, 3.0], np.float32)
    np.testing.assert_allclose(elu_features(x), [np.exp(-2.0), 1, 4], rtol=1e-6)


def test_positive_features_approximate_softmax():
    K, Z = 8, 4096
    q, k, v = (jnp.asarray(RNG.normal(size=(1, 6, 2, K)) * 0.4, jnp.float32) for _ in range(3))
    directions = orthogonal_directions(jax.random.key(0), Z, K)
    phi = functools.partial(positive_features, directions_ZK=directions)
    terms = jnp.einsum("bthz,bshz->bhts", phi(q), phi(k))
    np.testing.assert_allclose(terms, np.exp(np.einsum("bthk,bshk->bhts", q, k) / K**0.5), rtol=0.1)
    expected = reference_attention(q, k, v, np.tril(np.ones((1, 6, 6), bool)), K**-0.5)
    np.testing.assert_allclose(causal_linear_attention(phi(q), phi(k), v)[0], expected, atol=0.1)


def test_directions_are_normal_and_at_right_angles():
    w = np.asarray(orthogonal_directions(jax.random.key(0), 20, 8))
    assert w.shape == (20, 8)
    for group in (w[:8], w[8:16], w[16:]):
        product = group @ group.T
        np.testing.assert_allclose(product - np.diag(np.diag(product)), 0, atol=1e-4)
    assert 4 < np.square(w).sum(1).mean() < 12  # 8 on average


def test_half_precision():
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in (Q, K, V))
    o, state = causal_linear_attention(q, k, v, chunk=4)
    assert o.dtype == jnp.bfloat16 and state.dtype == jnp.float32
    np.testing.assert_allclose(np.float32(o), quadratic(Q, K, V, CAUSAL), atol=5e-2)


@pytest.mark.parametrize("config", MESHES[4:6], ids=name)
def test_on_meshes(config):
    rows = [np.tile(x[:, :, :1], (4, 1, 4, 1)) for x in (Q, K, V)]
    segments = np.concatenate([SEGMENTS] * 4)

    @jax.jit
    def run(q, k, v, segments):
        f = lambda *args: causal_linear_attention(*args, segments, chunk=4)
        (o, state), pull = jax.vjp(f, q, k, v)
        return o, state, pull((o, state)), linear_attention(q, k, v, segments > 0)

    expected = run(*rows, segments)
    with on(config) as put:
        args = [put(x, "batch", None, "heads", None) for x in rows]
        chex.assert_trees_all_close(run(*args, put(segments, "batch", None)), expected, rtol=1e-4, atol=1e-4)
