import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    Context,
    LayerNormConfig,
    MLPConfig,
    ParallelConfig,
    RMSNormConfig,
)
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import lies, on
from tests.weights import boxed, weights

X = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
CONTEXT = Context(np.arange(6)[None])
ATTENTION, MLP = AttentionConfig(H=2, K=4), MLPConfig(F=16)


RMS, LAYER = RMSNormConfig(eps=0.1), LayerNormConfig(eps=0.1)
BLOCKS = {  # the config, the names of its norms, and the formula with mixer m, feed-forward f and norms by name
    "pre": (
        BlockConfig(ATTENTION, MLP, RMS),
        "norm1 norm2",
        lambda x, m, f, n: (y := x + m(n["norm1"](x))) + f(n["norm2"](y)),
    ),
    "pre, layer norm": (
        BlockConfig(ATTENTION, MLP, LAYER),
        "norm1 norm2",
        lambda x, m, f, n: (y := x + m(n["norm1"](x))) + f(n["norm2"](y)),
    ),
    "post": (  # Vaswani et al. 2017
        BlockConfig(ATTENTION, MLP, norm=None, norm_sum=LAYER),
        "norm1_sum norm2_sum",
        lambda x, m, f, n: n["norm2_sum"]((y := n["norm1_sum"](x + m(x))) + f(y)),
    ),
    "sandwich": (  # Gemma 2
        BlockConfig(ATTENTION, MLP, RMS, norm_out=RMS),
        "norm1 norm1_out norm2 norm2_out",
        lambda x, m, f, n: (y := x + n["norm1_out"](m(n["norm1"](x)))) + n["norm2_out"](f(n["norm2"](y))),
    ),
    "olmo2": (
        BlockConfig(ATTENTION, MLP, norm=None, norm_out=RMS),
        "norm1_out norm2_out",
        lambda x, m, f, n: (y := x + n["norm1_out"](m(x))) + n["norm2_out"](f(y)),
    ),
    "scaled": (  # Granite
        BlockConfig(ATTENTION, MLP, RMS, scale=0.3),
        "norm1 norm2",
        lambda x, m, f, n: (y := x + 0.3 * m(n["norm1"](x))) + 0.3 * f(n["norm2"](y)),
    ),
    "around the norm": (  # Bloom
        BlockConfig(ATTENTION, MLP, LAYER, residual_from_norm=True),
        "norm1 norm2",
        lambda x, m, f, n: (z := n["norm2"]((y := n["norm1"](x)) + m(y))) + f(z),
    ),
    "parallel": (  # GPT-J
        ParallelConfig(ATTENTION, MLP, LAYER),
        "norm1",
        lambda x, m, f, n: x + m(n["norm1"](x)) + f(n["norm1"](x)),
    ),
    "parallel, two norms": (  # GPT-NeoX
        ParallelConfig(ATTENTION, MLP, LAYER, shared=False),
        "norm1 norm2",
        lambda x, m, f, n: x + m(n["norm1"](x)) + f(n["norm2"](x)),
    ),
}


@pytest.mark.parametrize("config, names, formula", BLOCKS.values(), ids=BLOCKS)
def test_it_is_the_formula(config, names, formula):
    block, names = config.build(3, "block"), names.split()
    p = weights(block, X, CONTEXT)
    assert set(p) == {"mixer", "ffn", *names}
    kind = LAYER if "bias" in p[names[0]] else RMS
    norms = {name: lambda x, name=name: kind.build(name).apply({"params": p[name]}, x) for name in names}
    states = []

    def mixer(x):
        y, state = ATTENTION.build(3, "mixer").apply({"params": p["mixer"]}, x, CONTEXT)
        states.append(state)
        return y

    expected = formula(X, mixer, lambda x: MLP.build(3, "ffn").apply({"params": p["ffn"]}, x)[0], norms)
    x, (found, statistics) = jax.jit(block.apply)({"params": p}, X, CONTEXT)
    np.testing.assert_allclose(x, expected, atol=1e-5)
    chex.assert_trees_all_close(found, states[0], atol=1e-6)
    assert statistics == {}


@pytest.mark.parametrize("kind", [BlockConfig, ParallelConfig])
def test_dropout_needs_a_key_and_falls_on_each_branch(kind):
    """With weights of zero but for the output biases, a branch is its bias, dropped or doubled."""
    config = kind(AttentionConfig(H=2, K=4, bias_out=True), MLPConfig(F=16, bias=True), dropout=0.5)
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


@pytest.mark.parametrize(
    "config",
    [BlockConfig(ATTENTION, MLP, norm_out=RMS, scale=0.3, dropout=0.1), ParallelConfig(ATTENTION, MLP)],
    ids=str,
)
def test_the_stream_keeps_its_dtype(config):
    block = config.build(3, "block")
    p = weights(block, X, CONTEXT)
    x, _ = block.apply({"params": p}, jnp.asarray(X, jnp.bfloat16), CONTEXT, rngs={"dropout": jax.random.key(0)})
    assert x.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["sandwich", "around the norm", "parallel, two norms"])
@pytest.mark.parametrize("explicit", [True, False])
def test_on_meshes(name, explicit):
    """Also the stream divided over positions comes back so."""
    block = BLOCKS[name][0].build(3, "block")
    p, axes = weights(block, X, CONTEXT), sharding.axes_of(boxed(block, X, CONTEXT))
    run = jax.jit(lambda p, x: block.apply({"params": p}, x, CONTEXT)[0])
    expected = run(p, X)
    with on(MeshConfig(2, 2, 2, explicit=explicit)) as put:
        placed = jax.tree.map(lambda a, w: put(w, *a.names), axes, p, is_leaf=lambda a: isinstance(a, Axes))
        x = run(placed, put(X, *sharding.stream(X.shape[1])))
        assert not explicit or lies(x, *sharding.stream(X.shape[1]))
    np.testing.assert_allclose(x, expected, atol=1e-5)
