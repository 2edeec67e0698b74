import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.decode import Greedy, generate
from jaxlm.errors import UserError
from jaxlm.models import LM, LMConfig
from jaxlm.nn import BlockConfig, Context, LayersConfig, MLPConfig, SinusoidalConfig, SparseAttentionConfig
from jaxlm.ops import Fixed, Local, Strided, dense_mask
from jaxlm.sharding import Axes
from tests.meshes import MESHES, lies, name, on
from tests.ops.attention_cases import naive
from tests.weights import boxed, weights

RNG = np.random.default_rng(0)
B, T, D = 2, 11, 12
X = RNG.normal(size=(B, T, D)).astype(np.float32)
START = np.array([0, 3])  # left padding of the second row, by no whole number of blocks
POSITIONS = np.arange(T)[None] - START[:, None]
SEGMENTS = (POSITIONS >= 0).astype(np.int32)
CONTEXT = Context(POSITIONS, SEGMENTS)
CONFIGS = {
    "fixed": SparseAttentionConfig(H=4, K=6, pattern=Fixed(2, 2)),
    "strided": SparseAttentionConfig(H=4, K=6, G=2, pattern=Strided(1, 4)),
    "local": SparseAttentionConfig(H=4, K=6, G=1, pattern=Local(2, 1, everywhere=1)),
}


def built(c):
    return c.build(3, "mixer")


def apply(c, p, x, context, past=None):
    return jax.jit(lambda p, x, past: built(c).apply({"params": p}, x, context, past))(p, x, past)


@pytest.mark.parametrize("c", CONFIGS.values(), ids=CONFIGS)
def test_it_projects_and_attends_from_the_first_token_of_a_text(c):
    p = weights(built(c), X, CONTEXT)
    q, k, v = (np.einsum("btd,dhk->bthk", X, p[name]) for name in "qkv")
    y, state = apply(c, p, X, CONTEXT)
    for b, start in enumerate(START):
        text = np.s_[b : b + 1, start:]
        mask = dense_mask(c.pattern(T - start), T - start)[None]
        expected = np.einsum("bthk,hkd->btd", naive(q[text], k[text], v[text], mask, c.K**-0.5), p["o"])
        np.testing.assert_allclose(y[text], expected, atol=1e-5)
    chex.assert_trees_all_close(state.value, (k.swapaxes(1, 2), v.swapaxes(1, 2)), atol=1e-5)


def test_without_padding_nothing_is_turned_round():
    c = CONFIGS["fixed"]
    p = weights(built(c), X, CONTEXT)
    whole, _ = apply(c, p, X, Context(np.arange(T)[None]))
    np.testing.assert_allclose(whole[0], apply(c, p, X, CONTEXT)[0][0], atol=1e-5)


@pytest.mark.parametrize("c, new", [(CONFIGS["fixed"], 1), (CONFIGS["strided"], 3), (CONFIGS["local"], 1)], ids=CONFIGS)
def test_a_past_is_as_good_as_the_whole_text(c, new):
    p = weights(built(c), X, CONTEXT)
    whole, state = apply(c, p, X, CONTEXT)
    end = T - new
    empty = c.init_cache(B, T + 2, jnp.float32)
    past = empty.write(jax.tree.map(lambda x: x[:, :, :end], state), jnp.int32(0))
    context = Context(POSITIONS[:, end:], SEGMENTS[:, end:], jnp.int32(end), START)
    y, _ = apply(c, p, X[:, end:], context, past)
    np.testing.assert_allclose(y, whole[:, end:], atol=1e-5)


def test_a_model_of_it_generates_what_its_forward_pass_says():
    block = BlockConfig(CONFIGS["fixed"], MLPConfig(F=16))  # pyright: ignore[reportArgumentType]
    config = LMConfig(V=32, D=16, layers=(LayersConfig((block,), 2),), positions=SinusoidalConfig())
    tokens = RNG.integers(0, 32, (1, 7)).astype(np.int32)
    params = jax.tree.map(lambda x: 1.5 * x, weights(LM(config), tokens))
    new, logprobs = generate(config, params, tokens, max_new_tokens=9, sampler=Greedy())
    logits = jax.jit(LM(config).apply)({"params": params}, np.concatenate([tokens, new], 1))[:, 6:-1]
    np.testing.assert_array_equal(new, logits.argmax(-1))
    np.testing.assert_allclose(logprobs, jax.nn.log_softmax(logits).max(-1), atol=1e-4)


def test_flops_count_the_visible_positions():
    c = SparseAttentionConfig(H=2, K=8, pattern=Fixed(4, 2))
    seen = sum(4 * (j < i) + 2 * (i == j) for i in range(8) for j in range(i + 1) if i // 2 == j // 2 or j % 2 == 1) / 8
    assert c.score_flops(32) == 4 * 2 * 8 * seen


def test_names_shapes_and_axes_of_the_weights():
    tree = boxed(built(CONFIGS["strided"]), X, CONTEXT)
    heads = Axes(("embed", "heads", None), (0,))
    assert sharding.axes_of(tree) == {"q": heads, "k": heads, "v": heads, "o": Axes(("heads", None, "embed"), (0, 1))}
    shapes = jax.tree.map(lambda x: x.shape, sharding.unbox(tree))
    assert shapes == {"q": (12, 4, 6), "k": (12, 2, 6), "v": (12, 2, 6), "o": (4, 6, 12)}


@pytest.mark.parametrize("config", MESHES[4:6], ids=name)
def test_on_meshes(config):
    c = CONFIGS["strided"]
    x, segments = np.concatenate([X] * 4), np.concatenate([SEGMENTS] * 4)
    p, axes = weights(built(c), X, CONTEXT), sharding.axes_of(boxed(built(c), X, CONTEXT))

    @jax.jit
    def run(p, x, segments):
        f = lambda p: built(c).apply({"params": p}, x, Context(np.arange(T)[None], segments))[0]
        y, pull = jax.vjp(f, p)
        return y, pull(y)

    expected = run(p, x, segments)
    with on(config) as put:
        placed = {key: put(p[key], *axes[key].names) for key in p}
        found = run(placed, put(x, "batch", None, None), put(segments, "batch", None))
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)
        if config.explicit:
            assert all(lies(x, "batch", "heads", None, None) for x in c.init_cache(8, 4, jnp.float32).value)


def test_what_makes_no_sense():
    with pytest.raises(UserError, match="G=4 key/value heads must divide H=6"):
        SparseAttentionConfig(H=6, K=4, G=4, pattern=Strided(1, 2))
    with pytest.raises(UserError, match="random blocks change as a text grows"):
        SparseAttentionConfig(H=6, K=4, pattern=Local(2, 1, random=1))
