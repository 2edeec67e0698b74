import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.ops import cross_attention
from jaxlm.ops.attention import reference_attention
from jaxlm.sharding import MeshConfig
from tests.meshes import MESHES, name, on
from tests.test_laws import largest, temporary

RNG = np.random.default_rng(0)
B, T, S, H, G, K, J = 8, 12, 9, 4, 2, 8, 6
draw = lambda *shape: RNG.normal(size=shape).astype(np.float32)
QKV_DO = draw(B, T, H, K), draw(B, S, G, K), draw(B, S, G, J), draw(B, T, H, J)
NAMES = [("batch", at, "heads", None) for at in ("positions", None, None, "positions")]
MASK = np.arange(S)[None] < RNG.integers(1, S + 1, (B, 1))
SCALE = 0.4


def with_gradients(attend):
    """The result, and the gradients of q, k and v."""

    def run(q, k, v, do, *rest):
        o, pull = jax.vjp(lambda q, k, v: attend(q, k, v, *rest), q, k, v)
        return o, pull(do)

    return jax.jit(run)


def expected(mask):
    mask_BTS = np.ones((1, 1, S), bool) if mask is None else mask[:, None]
    return with_gradients(lambda q, k, v: reference_attention(q, k, v, mask_BTS, SCALE))(*QKV_DO)


@pytest.mark.parametrize("mask", [None, MASK, MASK[:1]], ids=["all", "padded", "one row"])
@pytest.mark.parametrize("block", [5, 6, 128])  # the last block ragged; several; one
def test_equals_the_reference_forward_and_backward(mask, block):
    run = with_gradients(functools.partial(cross_attention, mask_BS=mask, scale=SCALE, block=block))
    chex.assert_trees_all_close(run(*QKV_DO), expected(mask), atol=2e-5)


def test_a_row_without_memory_is_finite():
    found = with_gradients(cross_attention)(*QKV_DO, np.zeros((B, S), bool))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


def test_half_precision():
    q, k, v, do = (jnp.asarray(x, jnp.bfloat16) for x in QKV_DO)
    found = with_gradients(functools.partial(cross_attention, scale=SCALE, block=5))(q, k, v, do, MASK)
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}
    chex.assert_trees_all_close(jax.tree.map(np.float32, found), expected(MASK), atol=0.1)


CONTEXT = [MeshConfig(data=2, context=2, tensor=2, explicit=explicit) for explicit in (True, False)]


@pytest.mark.parametrize("config", [*MESHES[4:6], *CONTEXT, MeshConfig(data=1, context=4, fsdp=2)], ids=name)
@pytest.mark.parametrize("mask", [MASK, MASK[:1]], ids=["padded", "one row"])
def test_on_meshes(config, mask):
    """Rows, heads and positions divided, also into ragged blocks."""
    run = with_gradients(lambda q, k, v, mask: cross_attention(q, k, v, mask, scale=SCALE, block=4))
    with on(config) as put:
        positions = ("batch", "positions", "heads", None)
        args = [
            put(x, *names) for x, names in zip(QKV_DO, (positions, *[("batch", None, "heads", None)] * 2, positions))
        ]
        rows = put(mask, "batch" if len(mask) > 1 else None, None)
        chex.assert_trees_all_close(run(*args, rows), expected(mask), atol=2e-5)


def test_dropout_is_the_same_in_blocks_of_any_size_and_on_any_mesh():
    rate, key = 0.5, jax.random.key(0)
    drop = lambda block, key: with_gradients(
        functools.partial(cross_attention, dropout=rate, key=key, block=block, scale=SCALE)
    )
    whole = drop(128, key)(*QKV_DO, MASK)
    chex.assert_trees_all_close(drop(5, key)(*QKV_DO, MASK), whole, atol=2e-5)
    with on(CONTEXT[0]) as put:
        args = [put(x, *names) for x, names in zip(QKV_DO, NAMES)]
        found = drop(4, key)(*args, put(MASK, "batch", None))
    chex.assert_trees_all_close(found, whole, atol=2e-5)
    # Of values that are one, what comes out is the share kept over what is kept on average.
    ones = np.ones((B, 400, G, 1), np.float32)
    kept = cross_attention(np.zeros((B, T, H, K)), np.zeros((B, 400, G, K)), ones, dropout=rate, key=key)
    assert kept.std() > 0.02 and abs(kept.mean() - 1) < 0.01
    np.testing.assert_allclose(drop(5, None)(*QKV_DO, MASK)[0], expected(MASK)[0], atol=2e-5)


def test_memory_is_linear_in_both_lengths():
    """At T = S = 8192 no T x S scores: a block of 128 queries of each head meets all keys, nothing more."""

    def program(T, S):
        shapes = [jax.ShapeDtypeStruct(shape, "f4") for shape in ((1, T, 2, 16), (1, S, 1, 16), (1, S, 1, 16))]
        loss = lambda q, k, v, mask: jnp.sum(jnp.square(cross_attention(q, k, v, mask)))
        mask = jax.ShapeDtypeStruct((1, S), bool)
        return jax.jit(jax.grad(loss, (0, 1, 2))).lower(*shapes, mask).compile()

    short, long = 1024, 8192
    assert largest(program(long, long)) <= 2 * 128 * long
    for shape in ((long, long), (long, 128), (128, long)):
        sizes = [temporary(program(*(n * 2 if n == long else n for n in shape))), temporary(program(*shape))]
        assert math.log2(sizes[0] / sizes[1]) <= 1.1, shape
    assert temporary(program(long, long)) <= 10 * temporary(program(short, short))


@pytest.mark.parametrize("config", [None, *CONTEXT], ids=name)
def test_a_query_sees_the_memory_of_its_own_segment(config):
    segments, memory = np.sort(RNG.integers(1, 4, (B, T)), 1), np.sort(RNG.integers(0, 4, (B, S)), 1)
    memory[:, :4] = [0, 1, 2, 3]  # each has some
    mask_BTS = segments[:, :, None] == memory[:, None]
    wanted = with_gradients(lambda q, k, v: reference_attention(q, k, v, mask_BTS, SCALE))(*QKV_DO)
    run = lambda q, k, v, memory, segments: cross_attention(q, k, v, memory, segments, scale=SCALE, block=4)
    with on(config) as put:
        args = [put(x, *names) for x, names in zip(QKV_DO, NAMES)]
        found = with_gradients(run)(*args, put(memory, "batch", None), put(segments, "batch", "positions"))
    chex.assert_trees_all_close(found, wanted, atol=2e-5)
