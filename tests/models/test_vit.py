"""Vision Transformers: patches, positions, heads, sizes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import compat, sharding
from jaxlm.errors import UserError
from jaxlm.models import ViTConfig, abstract, flops, forward, init_boxed, vit
from jaxlm.nn import AttentionConfig, BlockConfig, LayerNormConfig, LayersConfig, MLPConfig
from jaxlm.ops import positions
from jaxlm.sharding import MeshConfig, unbox
from tests.meshes import on

THOUSAND = tuple(map(str, range(1000)))
BLOCK = BlockConfig(
    AttentionConfig(4, 8, rope=None, causal=False, bias=True, bias_out=True),
    MLPConfig(48, "gelu", gated=False, bias=True),
    LayerNormConfig(),
)
SMALL = ViTConfig(32, (LayersConfig((BLOCK,), 2),), patch=4, Y=8, X=12, labels=("a", "b", "c"))


def made(c, seed=0):
    params = unbox(init_boxed(c, jax.random.key(seed)))
    return jax.tree.map(lambda x: x + 0.02 * jax.random.normal(jax.random.key(x.size), x.shape), params)


def image(c=SMALL, B=4):
    return np.random.default_rng(0).normal(size=(B, c.Y, c.X, c.C)).astype(np.float32)


@pytest.mark.parametrize(
    "size, patch, more, count",
    [  # timm's counts, of 224 x 224 and 1,000 classes
        ("Ti", 16, {}, 5_717_416),
        ("S", 16, {}, 22_050_664),
        ("B", 16, {}, 86_567_656),
        ("B", 32, {}, 88_224_232),
        ("L", 16, {}, 304_326_632),
        ("L", 32, {}, 306_535_400),
        ("H", 14, {}, 632_045_800),
        ("g", 14, {}, 1_012_611_432),
        ("G", 14, {}, 1_844_440_680),
        ("Ti", 16, {"tokens": 2, "distilled": True}, 5_910_800),
        ("S", 16, {"tokens": 2, "distilled": True}, 22_436_432),
        ("B", 16, {"tokens": 2, "distilled": True}, 87_338_192),
    ],
)
def test_published_counts(size, patch, more, count):
    assert flops.parameters(vit(size, patch, THOUSAND, **more)) == count


def test_flops_of_an_image():
    """Products of 197 tokens in 12 layers, of their scores and values, of 196 patches, and of one class token."""
    layers, scores = 12 * 197 * 12 * 192**2, 12 * 2 * 197**2 * 192
    assert vit("Ti", 16, THOUSAND).flops({}) == 6 * (layers + scores + 196 * 768 * 192 + 192 * 1000)


def test_patches_are_a_convolution():
    c = dataclasses.replace(SMALL, tokens=0, positions="sinusoidal", norm=None)
    silent = lambda path, x: x * (path[-1].key not in ("o", "o_bias", "down", "down_bias"))  # layers add nothing
    p, x = jax.tree_util.tree_map_with_path(silent, made(c)), image(c)
    found = forward(c.build(), p, x).encoded.last_BTD
    wanted = jax.lax.conv_general_dilated(
        x, p["patch"], (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    wanted = (
        np.asarray(wanted)
        + np.asarray(p["patch_bias"])
        + np.asarray(positions.sinusoidal_2d(2, 3, 32)).reshape(1, 2, 3, 32)
    )
    np.testing.assert_allclose(found.reshape(4, 2, 3, 32), wanted, atol=1e-5)


def test_sinusoidal_positions_of_a_grid():
    e = positions.sinusoidal_2d(3, 4, 16)
    for y in range(3):
        for x in range(4):
            w = [10_000 ** (-k / 3) for k in range(4)]
            wanted = [f(at * r) for at, f in ((x, np.sin), (x, np.cos), (y, np.sin), (y, np.cos)) for r in w]
            np.testing.assert_allclose(e[y * 4 + x], wanted, atol=1e-6)


def test_interpolated_positions():
    table = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
    np.testing.assert_allclose(positions.bicubic(jnp.asarray(table), 3, 5), table, atol=1e-6)
    flat = positions.bicubic(jnp.ones((3, 5, 2)), 7, 2)  # weights of every place sum to 1
    np.testing.assert_allclose(flat, np.ones((7, 2, 2)), atol=1e-6)


def test_mean_pooling_reads_all_patches():
    c = dataclasses.replace(SMALL, tokens=0, positions="sinusoidal")
    out = forward(c.build(), made(c), image(c))
    np.testing.assert_allclose(out.hidden_BTD[:, 0], out.encoded.last_BTD.mean(1), atol=1e-6)
    assert out.encoded.last_BTD.shape == (4, 6, 32)


def test_two_heads_are_averaged():
    c = dataclasses.replace(SMALL, tokens=2, distilled=True)
    p, x = made(c), image(c)
    last = np.asarray(forward(c.build(), p, x).encoded.last_BTD)
    p = jax.device_get(p)
    one, two = (last[:, i] @ p[name].T + p[f"{name}_bias"] for i, name in enumerate(("head", "head_distilled")))
    np.testing.assert_allclose(c.build().apply({"params": p}, x)[:, 0], (one + two) / 2, atol=1e-5)


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("tokens", [0, 2])
def test_on_meshes_as_on_one_device(explicit, tokens):
    c = dataclasses.replace(SMALL, tokens=tokens, distilled=tokens == 2)
    x, labels = image(c, 8), jnp.arange(8) % 3

    def loss(p, x, labels):
        chances = jax.nn.log_softmax(c.build().apply({"params": p}, x)[:, 0])
        return -jnp.sum(chances * jax.nn.one_hot(labels, 3))

    p = made(c)
    wanted, wanted_d = jax.jit(jax.value_and_grad(loss))(p, x, labels)
    with on(MeshConfig(2, 2, 2, explicit=explicit)) as put:
        there = jax.device_put(p, sharding.shardings(abstract(c)[1], p, compat.concrete_mesh()))
        batch = put(x, "batch", None, None, None), put(labels, "batch")
        found, d = jax.jit(jax.value_and_grad(loss))(there, *batch)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), jax.device_get(d), jax.device_get(wanted_d))


@pytest.mark.parametrize(
    "change, line",
    [
        ({"Y": 10}, "patches of 4 pixels do not fill an image of 10 x 12"),
        ({"tokens": 3}, "tokens"),
        ({"tokens": 1, "distilled": True}, "two tokens"),
        ({"positions": "rotary"}, "unknown kind of positions"),
        ({"labels": ("a", "a")}, "is there twice"),
        ({"tokens": 0, "pooler": "tanh"}, "class token"),
    ],
)
def test_what_no_model_has(change, line):
    with pytest.raises(UserError, match=line):
        dataclasses.replace(SMALL, **change)
