import jax.numpy as jnp
import numpy as np

from jaxlm.ops import decayed

B, H, R, Q, C, K = 2, 3, 2, 1, 8, 4
RNG = np.random.default_rng(0)


def test_the_blocks_are_those_of_the_decayed_products():
    reads = RNG.normal(size=(B, H, R, C, K)).astype(np.float32)
    keys = RNG.normal(size=(B, H, Q, C, K)).astype(np.float32)
    log = -RNG.uniform(size=(B, H, C, K)).astype(np.float32)
    crosses, before, after, whole = decayed.decayed(reads, keys, log, jnp.zeros_like(log))
    wanted = np.zeros((B, H, R, Q, C, C))
    for i in range(C):
        for j in range(i):
            weight = np.exp(log[:, :, j + 1 : i].sum(2))[:, :, None, None]
            wanted[..., i, j] = (reads[:, :, :, None, i] * keys[:, :, None, :, j] * weight).sum(-1)
    np.testing.assert_allclose(decayed.lower(crosses, jnp.zeros((B, H, R, Q, C))), wanted, atol=1e-5)
    np.testing.assert_allclose(before, np.cumsum(log, 2) - log, atol=1e-5)
    np.testing.assert_allclose(after, log.sum(2, keepdims=True) - np.cumsum(log, 2), atol=1e-5)
    np.testing.assert_allclose(whole, log.sum(2, keepdims=True), atol=1e-5)


def test_the_inverse():
    crosses = [RNG.normal(size=(C // (2 * m), m, m)).astype(np.float32) for m in (1, 2, 4)]
    a = np.asarray(decayed.lower(crosses, jnp.zeros(C)))
    assert np.all(np.triu(a) == 0) and np.all(a[np.tril_indices(C, -1)] != 0)
    np.testing.assert_allclose(decayed.inverse(crosses, jnp.zeros(C)), np.linalg.inv(np.eye(C) - a), atol=1e-4)
    np.testing.assert_array_equal(decayed.inverse([], jnp.zeros(1)), [[1]])
