import math
from fractions import Fraction

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.ops import (
    alibi_bias,
    alibi_bias_at,
    alibi_slopes,
    bucket_bias,
    bucket_bias_at,
    dense_bias,
    shaw_attention,
    t5_bucket,
)
from jaxlm.ops.relative import distances
from tests.meshes import MESHES, lies, name, on

RNG = np.random.default_rng(0)


def slow_bucket(d: int, num_buckets: int, max_distance: int, bidirectional: bool) -> int:
    """The formula, with the logarithm in whole numbers: log(a) / log(b) >= i / n just if a^n >= b^i."""
    A = num_buckets // 2 if bidirectional else num_buckets
    back = abs(d) if bidirectional else max(d, 0)
    half, steps = A // 2, A - A // 2
    bucket = back
    if back >= half:
        ratio, whole = Fraction(back, half), Fraction(max_distance, half)
        bucket = half + max(i for i in range(steps) if ratio**steps >= whole**i)
    return bucket + (A if bidirectional and d < 0 else 0)


@pytest.mark.parametrize("how", [(32, 128, False), (32, 128, True), (8, 20, True), (5, 7, False)], ids=str)
def test_buckets(how):
    d = np.arange(-150, 151)
    bucket = t5_bucket(d, *how)
    assert bucket.dtype == jnp.int32
    np.testing.assert_array_equal(bucket, [slow_bucket(int(x), *how) for x in d])
    assert int(bucket.max()) == how[0] - 1


def test_buckets_of_the_paper():
    """32 buckets: eight distances are exact each way, 16 is two steps of the logarithm on, 128 the last."""
    assert t5_bucket(np.array([0, 7, 8, 16, 32, 64, 127, 128, 9999]), bidirectional=True).tolist() == [
        *(0, 7, 8, 10, 12, 14, 15, 15, 15)
    ]
    assert t5_bucket(np.array([-1, -8, -9999]), bidirectional=True).tolist() == [17, 24, 31]
    assert t5_bucket(np.array([-5, 0, 15, 16, 18, 19, 9999])).tolist() == [0, 0, 15, 16, 16, 17, 31]


@pytest.mark.parametrize("how", [(1, 128, False), (2, 128, True), (7, 128, True), (32, 16, False)], ids=str)
def test_buckets_that_make_no_sense(how):
    with pytest.raises(UserError, match=f"num_buckets={how[0]}, max_distance={how[1]} do not fit"):
        t5_bucket(np.arange(3), *how)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_bias_of_distances_is_that_of_pairs(bidirectional):
    T, table = 9, RNG.normal(size=(3, 6)).astype(np.float32)
    loops = np.zeros((3, T, T), np.float32)
    for h, t, s in np.ndindex(loops.shape):
        loops[h, t, s] = table[h, slow_bucket(t - s, 6, 7, bidirectional)]
    bias = bucket_bias(table, T, 7, bidirectional)
    assert bias.shape == (3, 2 * T - 1)
    np.testing.assert_array_equal(dense_bias(bias), loops)
    at = np.array([[3, 5], [8, 0]])[:, :, None] - np.arange(T)[None, None]  # queries at 3 and 5, at 8 and 0
    some = jax.jit(lambda table, at: bucket_bias_at(table, at, 7, bidirectional))(table, at)
    np.testing.assert_array_equal(some, np.stack([loops[:, [3, 5]], loops[:, [8, 0]]], 1))


def test_the_gradient_of_a_bucket_sums_its_distances():
    T, table, cotangent = 9, jnp.zeros((2, 6)), RNG.normal(size=(2, 17)).astype(np.float32)
    expected = np.zeros((2, 6))
    for h, i in np.ndindex(cotangent.shape):
        expected[h, slow_bucket(i - (T - 1), 6, 7, True)] += cotangent[h, i]
    found = jax.vjp(lambda table: bucket_bias(table, T, 7, True), table)[1](cotangent)[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("H", [1, 2, 3, 6, 8, 12, 16, 20])
def test_slopes(H):
    def power(n):  # the first slope is also the ratio
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]

    P = 2 ** math.floor(math.log2(H))
    np.testing.assert_allclose(alibi_slopes(H), power(P) + power(2 * P)[0::2][: H - P], rtol=1e-6)
    np.testing.assert_allclose(alibi_slopes(H, 4.0), np.sqrt(alibi_slopes(H)), rtol=1e-6)


def test_alibi_falls_with_the_distance():
    T, slopes = 5, alibi_slopes(3)
    loops = np.zeros((3, T, T))
    for h, t, s in np.ndindex(loops.shape):
        loops[h, t, s] = float(slopes[h]) * (s - t if s <= t else t - s)
    bias = alibi_bias(slopes, T)
    assert bias.shape == (3, 2 * T - 1) and bias.dtype == jnp.float32
    np.testing.assert_allclose(dense_bias(bias), loops, rtol=1e-6)
    at = 3 - np.arange(T)[None, None]
    np.testing.assert_allclose(alibi_bias_at(slopes, at)[:, 0, 0], loops[:, 3], rtol=1e-6)


@pytest.mark.parametrize("config", MESHES[4:6], ids=name)
def test_biases_on_meshes(config):
    table = RNG.normal(size=(4, 6)).astype(np.float32)

    def run(table, slopes):
        f = lambda table, slopes: (bucket_bias(table, 9, 7), alibi_bias(slopes, 9))
        out, pull = jax.vjp(f, table, slopes)
        return out, pull(out)

    expected = jax.jit(run)(table, alibi_slopes(4))
    with on(config) as put:
        found = jax.jit(run)(put(table, "heads", None), put(alibi_slopes(4), "heads"))
        if config.explicit:
            assert all(lies(x, "heads", None) for x in found[0])
        chex.assert_trees_all_close(found, expected, rtol=1e-5)


B, T, H, G, K = 2, 7, 4, 2, 6
WIDE, NARROW = 5, 1  # rows of relative vectors: clipped at 2, and all distances alike


def shaw_arrays(W):
    draw = lambda *shape: RNG.normal(size=shape).astype(np.float32)
    return draw(B, T, H, K), draw(B, T, G, K), draw(B, T, G, K), draw(W, K), draw(W, K)


def loops(q, k, v, keys, values, mask, distance):
    """One softmax at a time. jnp, so that it has gradients."""
    o = []
    for b, t, h in np.ndindex(B, q.shape[1], H):
        seen = np.flatnonzero(mask[b % len(mask), t])
        row = [int(np.clip(distance[b % len(distance), t, s], -(len(keys) // 2), len(keys) // 2)) for s in seen]
        row = np.array(row) + len(keys) // 2
        p = jax.nn.softmax((k[b, seen, h // 2] + keys[row]) @ q[b, t, h] * 0.3)
        o.append(p @ (v[b, seen, h // 2] + values[row]))
    return jnp.stack(o).reshape(q.shape)


BACK = np.arange(T)[:, None] - np.arange(T)[None]
CAUSAL, PADDED = (BACK >= 0)[None], np.ones((B, T, T), bool)
PADDED[1, :, 5:] = False


@pytest.mark.parametrize("W, mask", [(WIDE, CAUSAL), (WIDE, PADDED), (NARROW, CAUSAL)], ids=["causal", "padded", "one"])
def test_relative_vectors_are_the_formula(W, mask):
    args, do = shaw_arrays(W), RNG.normal(size=(B, T, H, K)).astype(np.float32)

    def both(f):
        o, pull = jax.vjp(f, *args)
        return o, pull(do)

    found = jax.jit(lambda: both(lambda *args: shaw_attention(*args, jnp.asarray(mask), scale=0.3)))()
    chex.assert_trees_all_close(found, both(lambda *args: loops(*args, mask, BACK[None])), atol=2e-5)


def test_relative_vectors_at_given_distances():
    """Two new queries a row, at positions that differ from row to row: as decoding has them."""
    q, k, v, keys, values = shaw_arrays(WIDE)
    distance = np.array([[5, 6], [3, 4]])[:, :, None] - np.arange(T)[None, None]
    found = shaw_attention(q[:, :2], k, v, keys, values, jnp.asarray(distance >= 0), jnp.asarray(distance), 0.3)
    np.testing.assert_allclose(found, loops(q[:, :2], k, v, keys, values, distance >= 0, distance), atol=1e-5)


def test_relative_vectors_look_only_where_the_mask_says():
    q, k, v, keys, values = shaw_arrays(WIDE)
    f = lambda k, v: shaw_attention(q[:1], k, v, keys, values, jnp.asarray(CAUSAL)).sum((0, 2, 3))
    through = [np.abs(x).sum((1, 3, 4)) > 1e-7 for x in jax.jacobian(f, (0, 1))(k[:1], v[:1])]
    np.testing.assert_array_equal(through[1], CAUSAL[0])
    assert not (through[0] & ~CAUSAL[0]).any()


def test_relative_vectors_hold_no_vector_a_pair():
    T, K, W = 256, 64, 9
    shape = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    f = lambda *args: shaw_attention(*args, jnp.ones((1, T, T), bool)).sum()
    args = *[shape(1, T, 1, K)] * 3, shape(W, K), shape(W, K)
    compiled = jax.jit(jax.grad(f, (0, 1, 2, 3, 4))).lower(*args).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * T * T * K / 2


def test_relative_vectors_in_bfloat16_and_without_a_clear_middle():
    q, k, v, keys, values = (jnp.asarray(x, jnp.bfloat16) for x in shaw_arrays(WIDE))
    o = shaw_attention(q, k, v, keys, values, jnp.asarray(CAUSAL), scale=0.3)
    assert o.dtype == jnp.bfloat16
    whole = shaw_attention(*(x.astype(jnp.float32) for x in (q, k, v, keys, values)), jnp.asarray(CAUSAL), scale=0.3)
    np.testing.assert_allclose(np.float32(o), whole, atol=6e-2)
    with pytest.raises(UserError, match="4 keys and 5 values must be 2c \\+ 1"):
        shaw_attention(q, k, v, keys[:4], values, jnp.asarray(CAUSAL))


@pytest.mark.parametrize("config", MESHES[4:6], ids=name)
def test_relative_vectors_on_meshes(config):
    q, k, v, keys, values = shaw_arrays(WIDE)
    rows = [np.concatenate([x] * 4) for x in (q, k, v)]

    @jax.jit
    def run(*args):
        o, pull = jax.vjp(lambda *args: shaw_attention(*args, jnp.asarray(CAUSAL)), *args)
        return o, pull(o)

    expected = run(*rows, keys, values)
    with on(config) as put:
        args = [put(x, "batch", None, "heads", None) for x in rows] + [put(x, None, None) for x in (keys, values)]
        chex.assert_trees_all_close(run(*args), expected, atol=1e-4)


def test_distances_are_in_order():
    assert distances(3).tolist() == [-2, -1, 0, 1, 2]
