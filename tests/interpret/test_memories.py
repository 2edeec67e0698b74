import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.interpret.memories import Memories, memories, promoted, strongest
from jaxlm.models import LM, LMConfig
from jaxlm.nn import (
    AttentionConfig,
    BlockConfig,
    BranchConfig,
    BranchesConfig,
    Context,
    FeedForwardConfig,
    LayersConfig,
    MLPConfig,
    unstack,
)
from tests.weights import weights

ATTENTION = AttentionConfig(H=2, K=4)
GATED = BlockConfig(ATTENTION, MLPConfig(F=20))  # more than two widths, and no multiple of one
PLAIN = BlockConfig(ATTENTION, MLPConfig(F=6, activation="relu", gated=False, bias=True))
CONFIG = LMConfig(V=11, D=8, layers=(LayersConfig((GATED, PLAIN), 2), LayersConfig((PLAIN,))))
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 5)).astype(np.int32)


@functools.cache
def params():
    return weights(LM(CONFIG), TOKENS)


@functools.cache
def found(layer: int) -> Memories:
    return jax.jit(lambda params, tokens: memories(CONFIG, params, tokens, layer))(params(), TOKENS)


@pytest.mark.parametrize("layer", range(5))
def test_coefficients_times_values_are_the_layers_output(layer):
    m = found(layer)
    assert m.coefficients_BTF.shape == (2, 5, 6 if layer % 2 or layer == 4 else 20)
    total = np.einsum("btf,fd->btd", m.coefficients_BTF, m.values_FD) + np.asarray(m.bias_D)
    np.testing.assert_allclose(total, m.output_BTD, atol=1e-5)


def test_the_coefficients_are_the_formula():
    """Of three layers, with the stream before them rebuilt by hand."""
    trees = unstack(params())
    places = [("segment_0", "0", "block_0"), ("segment_0", "0", "block_1"), ("segment_0", "1", "block_0")]
    x = trees["embed"]["table"][TOKENS]
    context = Context(np.arange(5)[None])
    for layer, (group, period, block) in enumerate(places):
        c, p = (GATED, PLAIN)[layer % 2], trees[group][period][block]
        normed = lambda name, x, c=c, p=p: c.norm.build(name).apply({"params": p[name]}, x)
        y, _ = c.mixer.build(5, "mixer").apply({"params": p["mixer"]}, normed("norm1", x), context)
        h = np.asarray(normed("norm2", x + y))
        up = h @ p["ffn"]["up"] + p["ffn"].get("up_bias", 0)
        gate = h @ p["ffn"]["gate"] if "gate" in p["ffn"] else None
        expected = np.maximum(up, 0) if gate is None else gate / (1 + np.exp(-gate)) * up
        np.testing.assert_allclose(found(layer).coefficients_BTF, expected, atol=1e-4)
        out = expected @ p["ffn"]["down"] + p["ffn"].get("down_bias", 0)
        np.testing.assert_allclose(found(layer).output_BTD, out, atol=1e-4)
        x = x + y + out


def test_both_layouts_and_positions():
    again = memories(CONFIG, unstack(params()), TOKENS, 4)
    np.testing.assert_allclose(again.coefficients_BTF, found(4).coefficients_BTF, atol=1e-5)
    moved = memories(CONFIG, params(), TOKENS, 4, np.arange(5)[None] * 2)
    assert np.abs(moved.coefficients_BTF - found(4).coefficients_BTF).max() > 1e-3


def test_the_strongest_memories_of_a_token():
    m = found(0)
    ids, strength = strongest(m, 3)
    assert ids.shape == strength.shape == (2, 5, 3)
    for b, t in np.ndindex(2, 5):
        all_F = [float(m.coefficients_BTF[b, t, f]) * np.linalg.norm(m.values_FD[f]) for f in range(20)]
        order = sorted(range(20), key=lambda f: -abs(all_F[f]))[:3]
        assert ids[b, t].tolist() == order
        np.testing.assert_allclose(strength[b, t], [all_F[f] for f in order], rtol=1e-4)


def test_the_tokens_that_a_value_promotes():
    m = found(0)
    ids, scores = jax.jit(promoted, static_argnums=1)(m, 4)
    assert ids.shape == scores.shape == (20, 4)
    for f in range(20):
        all_V = np.asarray(m.head_VD) @ np.asarray(m.values_FD[f])
        order = np.argsort(-all_V)[:4]
        np.testing.assert_array_equal(ids[f], order)
        np.testing.assert_allclose(scores[f], all_V[order], rtol=1e-4)


def test_layers_that_are_not_there():
    for layer in (-1, 5):
        with pytest.raises(UserError, match=f"layer {layer} is not there: the model has layers 0"):
            memories(CONFIG, params(), TOKENS, layer)


class Other(FeedForwardConfig):
    def build(self, depth, name):
        raise NotImplementedError


TWO = BranchesConfig((BranchConfig("a", MLPConfig(F=8)), BranchConfig("b", MLPConfig(F=8))))


@pytest.mark.parametrize(
    "block, found",
    [
        (BlockConfig(ATTENTION, Other()), "Other"),
        (BlockConfig(ATTENTION, None), "no feed-forward"),
        (TWO, "MLPConfig and MLPConfig"),
    ],
    ids=["another", "none", "two"],
)
def test_another_feed_forward(block, found):
    strange = LMConfig(V=11, D=8, layers=(LayersConfig((block,)),))
    with pytest.raises(UserError, match=f"layer 0 has not one plain or gated MLP to read as memories, but {found}"):
        memories(strange, {}, jnp.zeros((1, 1), int), 0)
