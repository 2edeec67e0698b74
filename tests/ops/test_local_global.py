"""Windows with global tokens against dense attention under the same mask; what they cost."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import local_global, reference_attention
from jaxlm.ops.local_global import local_global_attention, put, take
from tests.ops.attention_cases import naive

RNG = np.random.default_rng(0)
B, T, H, K = 2, 13, 3, 4
QKV = [RNG.normal(size=(B, T, H, K)).astype(np.float32) for _ in range(3)]
SEGMENTS = np.array([[1] * 11 + [0] * 2, [1] * 6 + [2] * 7])
GLOBAL = np.array([[0, 7], [3, -1]])


def mask(reach, segments=None, globals_=None):
    near = np.broadcast_to(abs(np.subtract.outer(np.arange(T), np.arange(T))) <= reach, (B, T, T)).copy()
    for b, places in enumerate([] if globals_ is None else globals_):
        for place in places:
            near[b, :, place] |= place >= 0
    return near if segments is None else near & (segments[:, :, None] == segments[:, None])


@pytest.mark.parametrize("block", [2, 128])
@pytest.mark.parametrize("reach", [1, 4, 40])
@pytest.mark.parametrize("segments, globals_", [(None, None), (SEGMENTS, None), (SEGMENTS, GLOBAL)])
def test_equals_dense_attention_forward_and_backward(block, reach, segments, globals_, monkeypatch):
    monkeypatch.setattr(local_global, "BLOCK", block)  # as many blocks, and one
    seen = mask(reach, segments, globals_)

    def run(f):
        o, pull = jax.vjp(f, *QKV)
        return o, pull(jnp.cos(o))

    found = run(lambda *qkv: local_global_attention(*qkv, segments, globals_, reach=reach))
    chex.assert_trees_all_close(found, run(lambda *qkv: reference_attention(*qkv, seen, K**-0.5)), atol=2e-5)
    np.testing.assert_allclose(found[0], naive(*QKV, seen, K**-0.5), atol=1e-5)


def test_places_of_a_row():
    x, new = jnp.arange(8.0).reshape(2, 4), jnp.array([[70.0, 80.0], [90.0, 0.0]])
    at = jnp.array([[2, 0], [3, -1]])
    np.testing.assert_array_equal(take(x, at)[:, 0], [2, 7])
    np.testing.assert_array_equal(put(x, at, new), [[80, 1, 70, 3], [4, 5, 6, 90]])


def test_cost_grows_with_the_length():
    def cost(T):
        f = lambda q, k, v, at: local_global_attention(q, k, v, None, at, reach=128).sum()
        x = jax.ShapeDtypeStruct((1, T, 1, 16), jnp.float32)
        compiled = jax.jit(jax.grad(f, (0, 1, 2))).lower(x, x, x, jax.ShapeDtypeStruct((1, 4), jnp.int32)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert cost(8192) <= 4.4 * cost(2048)
