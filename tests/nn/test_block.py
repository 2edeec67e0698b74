import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.nn import AttentionConfig, BlockConfig, Context, LayerNormConfig, MLPConfig, RMSNormConfig
from tests.weights import weights

X = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
CONTEXT = Context(np.arange(6)[None])
ATTENTION, MLP = AttentionConfig(H=2, K=4), MLPConfig(F=16)


@pytest.mark.parametrize("norm", [RMSNormConfig(), LayerNormConfig()], ids=str)
def test_each_branch_sees_the_normed_stream_and_adds_to_it(norm):
    block = BlockConfig(ATTENTION, MLP, norm).build(3, "block")
    p = weights(block, X, CONTEXT)
    assert set(p) == {"norm1", "mixer", "norm2", "ffn"}
    normed = lambda name, x: norm.build(name).apply({"params": p[name]}, x)
    y, state = ATTENTION.build(3, "mixer").apply({"params": p["mixer"]}, normed("norm1", X), CONTEXT)
    middle = X + y
    expected = middle + MLP.build(3, "ffn").apply({"params": p["ffn"]}, normed("norm2", middle))[0]
    x, (found_state, statistics) = jax.jit(block.apply)({"params": p}, X, CONTEXT)
    np.testing.assert_allclose(x, expected, atol=1e-5)
    for a, b in zip(found_state, state):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert statistics == {}


def test_dropout_needs_a_key_and_falls_on_each_branch():
    """With weights of zero but for the output biases, a branch is its bias, dropped or doubled."""
    config = BlockConfig(AttentionConfig(H=2, K=4, bias_out=True), MLPConfig(F=16, bias=True), dropout=0.5)
    block = config.build(3, "block")
    p = jax.tree.map(np.zeros_like, weights(block, X, CONTEXT))
    p["mixer"]["o_bias"][:], p["ffn"]["down_bias"][:] = 1, 10
    run = lambda **kwargs: np.asarray(block.apply({"params": p}, X, CONTEXT, **kwargs)[0]) - X
    np.testing.assert_allclose(run(), 11, atol=1e-5)
    y = run(rngs={"dropout": jax.random.key(0)}).round(3)
    values, counts = np.unique(y, return_counts=True)
    assert values.tolist() == [0, 2, 20, 22]  # four in equal shares: the two masks are independent
    assert (np.abs(counts / y.size - 0.25) < 4 * np.sqrt(3 / 16 / y.size)).all()
    assert (y != run(rngs={"dropout": jax.random.key(1)}).round(3)).any()


def test_without_a_rate_the_key_does_nothing():
    block = BlockConfig(ATTENTION, MLP).build(3, "block")
    p = weights(block, X, CONTEXT)
    with_key = block.apply({"params": p}, X, CONTEXT, rngs={"dropout": jax.random.key(0)})[0]
    np.testing.assert_array_equal(with_key, block.apply({"params": p}, X, CONTEXT)[0])


def test_the_stream_keeps_its_dtype():
    block = BlockConfig(ATTENTION, MLP, dropout=0.1).build(3, "block")
    p = weights(block, X, CONTEXT)
    x, _ = block.apply({"params": p}, jnp.asarray(X, jnp.bfloat16), CONTEXT, rngs={"dropout": jax.random.key(0)})
    assert x.dtype == jnp.bfloat16
