"""Dispatch against loops: what stands in which row, products by expert, and how much padding there is."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import dispatch

RNG = np.random.default_rng(0)
D, F = 5, 4


def choices(M: int, E: int, A: int, skew: float = 0.0) -> np.ndarray:
    """A different experts for each token; with a skew, the first are preferred."""
    noise = RNG.gumbel(size=(M, E)) - skew * np.arange(E)
    return np.argsort(-noise)[:, :A].astype(np.int32)


CASES = [(1, 4, 2, 0), (64, 4, 2, 0), (64, 4, 2, 3.0), (40, 1, 1, 0), (300, 8, 3, 1.0)]
dropless = jax.jit(dispatch.dropless, static_argnums=(1, 2))
capped = jax.jit(dispatch.capped, static_argnums=(1, 2))


@pytest.mark.parametrize("pairs, E", [(p, E) for p in (1, 2, 7, 64, 65, 1000, 4096, 10**6) for E in (1, 3, 8, 128)])
def test_padding_is_at_most_an_eighth(pairs, E):
    Q = dispatch.block_size(pairs, E)
    assert E * (Q - 1) <= pairs / 8 < E * (2 * Q - 1) + E  # and no smaller than it need be
    assert Q == 1 or pairs >= 8 * E


@pytest.mark.parametrize("M, E, A, skew", CASES)
def test_dropless_rows(M, E, A, skew):
    ids = choices(M, E, A, skew)
    d = dropless(jnp.asarray(ids), E)
    N, Q = d.pair_NQ.shape
    assert d.pair_NQ.size <= 1.125 * ids.size
    pairs, rows = np.asarray(d.pair_NQ).reshape(-1), np.asarray(d.row_MA).reshape(-1)
    np.testing.assert_array_equal(pairs[rows], np.arange(ids.size))  # every pair has a row of its own
    assert (pairs == ids.size).sum() == N * Q - ids.size  # and the others are empty
    np.testing.assert_array_equal(np.asarray(d.expert_N)[rows // Q], ids.reshape(-1))


@pytest.mark.parametrize("M, E, A, skew", CASES)
def test_rows_of_own_experts_only(M, E, A, skew):
    """Of 4 E experts, E are there."""
    ids = choices(M, 4 * E, A, skew)
    ids = np.where(ids < E, ids, E + ids % 2)  # any number from E on is somebody else's
    d = dropless(jnp.asarray(ids), E, 4 * E)
    (N, Q), own = d.pair_NQ.shape, ids < E
    assert dispatch.block_size(ids.size, 4 * E) == Q
    assert d.pair_NQ.size <= 1.125 * ids.size
    rows = np.asarray(d.row_MA)
    assert (rows[~own] >= N * Q).all() and (rows[own] < d.used * Q).all()
    assert d.used * Q <= own.sum() + E * (Q - 1)
    np.testing.assert_array_equal(np.asarray(d.pair_NQ).reshape(-1)[rows[own]], np.flatnonzero(own))
    assert (np.asarray(d.pair_NQ) == ids.size).sum() == N * Q - own.sum()
    np.testing.assert_array_equal(np.asarray(d.expert_N)[rows[own] // Q], ids[own])


@pytest.mark.parametrize("M, E, A, skew", CASES)
@pytest.mark.parametrize("Q", [5, 60])
def test_capped_rows(M, E, A, skew, Q):
    ids = choices(M, E, A, skew)
    d = capped(jnp.asarray(ids), E, Q)
    taken, expected = [[] for _ in range(E)], np.full(ids.shape, E * Q)
    for m, a in np.ndindex(*ids.shape):
        e = ids[m, a]
        if len(taken[e]) < Q:
            expected[m, a] = e * Q + len(taken[e])
            taken[e].append(m * A + a)
    np.testing.assert_array_equal(d.row_MA, expected)
    np.testing.assert_array_equal(d.pair_NQ, [pairs + [ids.size] * (Q - len(pairs)) for pairs in taken])
    assert d.expert_N is None


@pytest.mark.parametrize("Q", [None, 3, 20])
def test_there_and_back(Q):
    """Rows, weighed, collected: the same as picking by hand, with all gradients."""
    M, E, A = 24, 4, 2
    ids = choices(M, E, A)
    x, w = RNG.normal(size=(M, D)).astype(np.float32), RNG.normal(size=(M, A)).astype(np.float32)
    d = dropless(jnp.asarray(ids), E) if Q is None else capped(jnp.asarray(ids), E, Q)
    kept = np.asarray(d.row_MA) < d.pair_NQ.size
    assert kept.all() == (Q != 3)
    mix = RNG.normal(size=(M, A, D)).astype(np.float32)

    def found(x, w):
        rows = dispatch.send(x, d)
        np.testing.assert_array_equal(rows.shape, (*d.pair_NQ.shape, D))
        return jnp.sum(mix * dispatch.collect(jnp.square(dispatch.weigh(rows, w, d)), d))

    def expected(x, w):
        return jnp.sum(mix * jnp.square(w[..., None] * x[:, None]) * kept[..., None])

    one, other = (jax.jit(jax.value_and_grad(f, (0, 1)))(x, w) for f in (found, expected))
    chex.assert_trees_all_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("experts", [None, [0, 0, 2, 2, 2, 0]])  # expert 1 has nothing
def test_grouped_matmul(dtype, experts):
    N, Q, E = 6, 3, 6 if experts is None else 3
    x, w = RNG.normal(size=(N, Q, D)), RNG.normal(size=(E, D, F))
    mix = RNG.normal(size=(N, Q, F))
    ids = np.arange(N) if experts is None else np.array(experts)
    arrays = [jnp.asarray(a, dtype) for a in (x, w, mix)]

    def f(x, w, mix):
        y, pull = jax.vjp(
            lambda x, w: dispatch.grouped_matmul(x, w, None if experts is None else jnp.asarray(ids)), x, w
        )
        return y, *pull(mix)

    y, dx, dw = jax.jit(f)(*arrays)
    assert y.dtype == dx.dtype == dw.dtype == jnp.dtype(dtype)
    x, w, mix = (np.float32(a) for a in arrays)
    expected = np.zeros_like(w)
    for n, e in enumerate(ids):
        expected[e] += x[n].T @ mix[n]
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == "float32" else {"rtol": 2e-2, "atol": 2e-2}
    np.testing.assert_allclose(np.float32(y), [x[n] @ w[e] for n, e in enumerate(ids)], **close)
    np.testing.assert_allclose(np.float32(dx), [mix[n] @ w[e].T for n, e in enumerate(ids)], **close)
    np.testing.assert_allclose(np.float32(dw), expected, **close)


@pytest.mark.parametrize("M, E, A, skew", CASES)
def test_by_blocks(M, E, A, skew):
    """Tokens through two matrices and a bias, against all experts for every token; nothing is done for others."""
    ids = choices(M, 2 * E, A, skew)  # half of them others'
    x, mix = RNG.normal(size=(2, M, D)).astype(np.float32)
    weights = RNG.normal(size=(M, A)).astype(np.float32)
    w = {"one": {"up": (E, D, F), "bias": (E, F)}, "down": (E, F, D)}
    w = jax.tree.map(lambda shape: RNG.normal(size=shape).astype(np.float32), w, is_leaf=lambda x: isinstance(x, tuple))
    done = []

    def expert(w, x_NQD, weights_NQ1):
        jax.debug.callback(lambda: done.append(1))
        h_NQF = jnp.tanh(x_NQD @ w["one"]["up"] + w["one"]["bias"][:, None])
        return jnp.square(h_NQF * weights_NQ1) @ w["down"] * weights_NQ1

    def found(w, x, weights):
        return dispatch.by_blocks(expert, w, x, weights, dispatch.dropless(jnp.asarray(ids), E, 2 * E))

    def expected(w, x, weights):
        all_EAMD = jnp.stack([expert(w, jnp.tile(x, (E, 1, 1)), weights[None, :, a, None]) for a in range(A)], 1)
        return jnp.where(ids.T[None, ..., None] == jnp.arange(E)[:, None, None, None], all_EAMD, 0).sum((0, 1))

    both = [
        jax.jit(lambda *args, f=f: (lambda y, pull: (y, *pull(mix)))(*jax.vjp(f, *args))) for f in (found, expected)
    ]
    one = both[0](w, x, weights)
    jax.effects_barrier()
    assert len(done) == 2 * dropless(jnp.asarray(ids), E, 2 * E).used  # forward, and in the gradient again
    chex.assert_trees_all_close(one, both[1](w, x, weights), rtol=1e-4, atol=1e-4)
