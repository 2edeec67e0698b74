import dataclasses
import functools
import itertools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import AttentionConfig, BlockConfig, Context, LayersConfig, MLPConfig, Stack, group_layers, stack, unstack
from jaxlm.nn.stack import POLICIES
from tests.weights import boxed, weights

X = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
CONTEXT = Context(np.arange(5)[None])
LOCAL, GLOBAL = (BlockConfig(AttentionConfig(H=2, K=4, window=w), MLPConfig(F=12), dropout=0.5) for w in (2, None))
GROUP = LayersConfig((LOCAL, GLOBAL), 3)
PLAIN = LayersConfig((GLOBAL,), 2)


def run(params, group=GROUP, key=None, **kwargs):
    """Output and states."""
    rngs = {} if key is None else {"dropout": key}
    module = Stack(group, group.depth, **kwargs)
    return module.apply({"params": params}, X, CONTEXT, rngs=rngs)


@functools.cache
def params(group=GROUP):
    return weights(Stack(group, group.depth), X, CONTEXT)


def test_a_stack_is_its_blocks_one_after_the_other():
    x, states = X, []
    for i in range(3):
        for j, block in enumerate(GROUP.blocks):
            p = jax.tree.map(lambda x, i=i: x[i], params()["periods"][f"block_{j}"])
            x, (state, _) = jax.jit(block.build(6, "block").apply)({"params": p}, x, CONTEXT)
            states.append(state)
    found, (found_states, statistics) = jax.jit(run)(params())
    np.testing.assert_allclose(found, x, atol=1e-5)
    assert statistics == ({}, {})
    for i, state in enumerate(states):  # stacked: one entry a block, with a leading axis of periods
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i // 2], found_states[i % 2]), state, atol=1e-5)


def test_unstacked_equals_stacked():
    trees = unstack({"segment_0": params()})["segment_0"]
    assert set(trees) == {"0", "1", "2"}
    found, (states, _) = jax.jit(functools.partial(run, stacked=False))(trees)
    expected, (stacked, _) = jax.jit(run)(params())
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for i in range(3):
        chex.assert_trees_all_close(states[i], jax.tree.map(lambda x, i=i: x[i], stacked), atol=1e-5)


def test_stack_undoes_unstack():
    whole = {"embed": {"table": X}, "segment_0": params(), "segment_1": params(PLAIN), "head": X[0]}
    apart = unstack(whole)
    assert set(apart["segment_1"]) == {"0", "1"} and apart["embed"]["table"] is X
    chex.assert_trees_all_equal(stack(apart), whole)
    shapes = jax.tree.map(lambda x: x.shape, apart["segment_0"])
    layout = boxed(Stack(GROUP, 6, stacked=False), X, CONTEXT)
    assert shapes == jax.tree.map(lambda x: x.shape, sharding.unbox(layout))


def test_more_than_ten_periods_keep_their_order():
    tree = {"segment_0": {"periods": {"w": np.arange(12)}}}
    np.testing.assert_array_equal(stack(unstack(tree))["segment_0"]["periods"]["w"], np.arange(12))


def test_weights_have_an_axis_of_layers():
    axes = sharding.axes_of(boxed(Stack(GROUP, 6), X, CONTEXT))["periods"]
    assert set(axes) == {"block_0", "block_1"}
    assert axes["block_1"]["mixer"]["o"].names == ("layers", "heads", None, "embed")
    assert axes["block_1"]["mixer"]["o"].inputs == (1, 2)
    assert axes["block_0"]["norm1"]["scale"].names == ("layers", None)


def test_every_layer_starts_with_its_own_numbers():
    fresh = jax.jit(Stack(PLAIN, 2).init)(jax.random.key(0), X, CONTEXT)["params"]
    q = sharding.unbox(fresh)["periods"]["block_0"]["mixer"]["q"]
    assert np.abs(q[0] - q[1]).max() > 0.1
    np.testing.assert_allclose(q[0].std(), q[1].std(), rtol=0.5)


@functools.cache
def gradients(**kwargs):
    """Loss and gradients, dropout on."""

    def loss(params, key):
        return jnp.sum(jnp.square(run(params, LayersConfig((GLOBAL,), 3), key, **kwargs)[0]))

    f = jax.jit(jax.value_and_grad(loss))
    return f(params(LayersConfig((GLOBAL,), 3)), jax.random.key(0))


@pytest.mark.parametrize("how", [{"remat": name} for name in POLICIES if name != "none"] + [{"unroll": 2}], ids=str)
def test_rematerialisation_and_unrolling_change_no_number(how):
    chex.assert_trees_all_close(gradients(**how), gradients(), rtol=1e-5, atol=1e-5)


def test_policies_save_what_they_say():
    """Floats kept from the forward pass for the backward pass."""

    def saved(remat):
        f = lambda p: run(p, PLAIN, remat=remat)[0]
        return sum(x.size for x in jax.tree.leaves(jax.eval_shape(lambda p: jax.vjp(f, p)[1], params(PLAIN))))

    kept = {name: saved(name) for name in POLICIES}
    N, B, T, heads, F = 2, *X.shape[:2], 2 * 4, 12
    assert kept["attention"] - kept["full"] == N * B * T * (heads + 2)  # the output, and a log-sum-exp a head
    assert kept["qkv"] - kept["attention"] == N * B * T * 3 * heads
    assert kept["mlp"] - kept["qkv"] == N * B * T * 2 * F
    assert kept["mlp"] < kept["none"]
    assert kept["dots_except_mlp"] - kept["qkv"] == N * B * T * X.shape[-1]  # what each mixer gives
    assert kept["offload"] == kept["attention"]
    program = jax.make_jaxpr(lambda p: jax.vjp(lambda p: run(p, PLAIN, remat="offload")[0], p)[1])(params(PLAIN))
    host = [x.size for x in program.out_avals if x.memory_space == jax.memory.Space.Host]
    assert sum(host) == N * (X.size + B * T * (heads + 2))  # what each period reads, and what attention gives


@pytest.mark.parametrize("group, blocks", [(GROUP, 2), (PLAIN, 0)])
def test_a_block_of_several_ends_with_the_gradients_of_its_weights(group, blocks):
    """Together with that of its input, of which the block before would else begin while what theirs read is kept."""
    loss = lambda params: run(params, group, remat="full")[0].sum()
    text = jax.jit(jax.grad(loss)).lower(params(group)).as_text()
    together = [found.count("%") for found in re.findall(r"optimization_barrier ([^:]*) :", text)]
    assert together.count(len(jax.tree.leaves(params(group)["periods"]["block_0"])) + 1) == blocks


def test_a_group_may_have_a_policy_of_its_own():
    residuals = lambda group, **how: jax.tree.leaves(
        jax.eval_shape(lambda p: jax.vjp(lambda p: run(p, group, **how)[0], p)[1], params(PLAIN))
    )
    own = dataclasses.replace(PLAIN, remat="full")
    size = lambda *args, **how: sum(x.size for x in residuals(*args, **how))
    assert size(own) == size(PLAIN, remat="full") < size(PLAIN)
    assert size(dataclasses.replace(PLAIN, remat="none"), remat="full") == size(PLAIN)
    with pytest.raises(UserError, match="unknown remat policy 'ful': did you mean 'full'"):
        LayersConfig((GLOBAL,), remat="ful")


def test_dropout_differs_from_layer_to_layer():
    """Branches of constant ones: what a layer adds is its mask."""
    config = dataclasses.replace(GLOBAL, ffn=MLPConfig(F=12, bias=True))
    group = LayersConfig((config,), 2)
    zero = jax.tree.map(np.zeros_like, params(group))
    zero["periods"]["block_0"]["ffn"]["down_bias"][:] = [[1] * 8, [10] * 8]
    f = jax.jit(run, static_argnums=1)
    masks = np.round(f(zero, group, jax.random.key(0))[0] - X)
    values, counts = np.unique(masks, return_counts=True)
    assert values.tolist() == [0, 2, 20, 22] and counts.min() > 5
    np.testing.assert_allclose(f(zero, group)[0] - X, 11, atol=1e-5)
    assert (masks != np.round(f(zero, group, jax.random.key(1))[0] - X)).any()


# Layers know their number


@dataclasses.dataclass(frozen=True)
class Told:
    """A block that writes the number of its layer behind the digits that came before, in base 16."""

    def build(self, depth, name):
        return Tell(name=name)


class Tell(nn.Module):
    @nn.compact
    def __call__(self, x, context, past=None):
        return 16 * x + context.layer, (jnp.asarray(context.layer), {})


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("blocks, repeat", [(1, 4), (2, 2), (4, 1)])
def test_every_block_knows_its_number(stacked, blocks, repeat):
    """Counted from the number of the group's first layer, in order."""
    group = LayersConfig((Told(),) * blocks, repeat)
    run = jax.jit(lambda x, context: Stack(group, 9, stacked=stacked).apply({}, x, context))
    x, (states, _) = run(jnp.zeros((), jnp.int32), dataclasses.replace(CONTEXT, layer=3))
    assert f"{x:x}" == "3456"
    of = lambda i: states[i % blocks][i // blocks] if stacked else states[i // blocks][i % blocks]
    assert [int(of(i)) for i in range(4)] == [3, 4, 5, 6]


# Layers in order as groups


def kinds(word: str) -> list[BlockConfig]:
    """One block a letter, of a kind of its own."""
    return [BlockConfig(AttentionConfig(H=1, K=ord(letter) * 2), MLPConfig(F=1)) for letter in word]


def shown(found) -> list[tuple[str, int]]:
    return [("".join(chr(b.mixer.K // 2) for b in group.blocks), group.repeat) for group in found]


@pytest.mark.parametrize(
    "word, expected",
    [
        ("a", [("a", 1)]),
        ("aaaaaaa", [("a", 7)]),
        (("lllllg" * 6)[:34], [("lllllg", 5), ("l", 4)]),  # Gemma 3 of 4B
        ("d" * 3 + "m" * 58, [("d", 3), ("m", 58)]),  # DeepSeek-V3
        ("d" + "m" * 26, [("d", 1), ("m", 26)]),
        ("lg" * 13, [("lg", 13)]),  # Gemma 2
        ("cccn" * 12, [("cccn", 12)]),  # Llama 4
        ("abc", [("abc", 1)]),
    ],
)
def test_layers_as_segments(word, expected):
    assert shown(group_layers(kinds(word))) == expected


def test_segments_compile_the_fewest_blocks():
    """Against every way to cut every word of seven layers of two kinds."""

    def cost(part):
        return next(p for p in range(1, len(part) + 1) if len(part) % p == 0 and part[:p] * (len(part) // p) == part)

    for letters in itertools.product("ab", repeat=6):
        word = "a" + "".join(letters)
        found = group_layers(kinds(word))
        assert "".join(blocks * repeat for blocks, repeat in shown(found)) == word
        ways = []
        for cuts in itertools.product([False, True], repeat=6):
            ends = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), 7]
            parts = [word[a:b] for a, b in zip(ends, ends[1:])]
            ways.append((sum(map(cost, parts)), len(parts)))
        assert (sum(len(s.blocks) for s in found), len(found)) == min(ways)


def test_segments_that_make_no_sense():
    for blocks, repeat in [((), 1), ((LOCAL,), 0)]:
        with pytest.raises(UserError, match=r"a group of layers needs at least one block|repeat=0 must be at least 1"):
            LayersConfig(blocks, repeat)
    assert GROUP.depth == 6
