import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import (
    ChannelMixConfig,
    LayerNormConfig,
    TimeMix5Config,
    TimeMix6Config,
    TimeMix7Config,
    matrix_rwkv_layer,
    rwkv7_layers,
)
from jaxlm.sharding import Axes, MeshConfig
from tests import tiny
from tests.meshes import name
from tests.nn import mixers
from tests.nn.mixers import CONTEXT, B, D, T, X
from tests.weights import boxed

H, K = 2, 4
CONFIGS = {
    "5": TimeMix5Config(H, K, D=D, chunk_size=3),
    "6": TimeMix6Config(H, K, D=D, L=2, L_decay=3, chunk_size=2),
    "7 first": TimeMix7Config(H, K, D=D, L_decay=2, L_rate=3, L_gate=4, first=True, chunk_size=4),
    "7": TimeMix7Config(H, K, D=D, L_decay=2, L_rate=3, L_value=2, L_gate=4, chunk_size=3),
}
ALL = pytest.mark.parametrize("c", CONFIGS.values(), ids=CONFIGS)
FIRST = np.random.default_rng(5).normal(size=(B, T, H, K)).astype(np.float32)
HANDED = dataclasses.replace(CONTEXT, handed=FIRST)


def slow(c, p, x, first):
    """The papers' layers, token by token, with weights p."""
    p = jax.tree.map(mixers.written, p)
    before = np.pad(x, ((1, 0), (0, 0)))[:-1]
    mix = lambda name: x * p[f"mix_{name}"] + before * (1 - p[f"mix_{name}"])
    low = lambda name, x, act: np.einsum("tl,lhk->thk", act(x @ p[f"{name}_in"]), p[f"{name}_out"])
    into = lambda name, x: np.einsum("td,dhk->thk", x, p[name])
    plain = lambda x: x
    seven = isinstance(c, TimeMix7Config)
    if seven:
        names = "rwkvag"
        xs = {name: mix(name) for name in names}
    elif isinstance(c, TimeMix6Config):
        names = "wkvrg"
        more = [np.tanh(mix("x") @ p["mix_in"][:, i]) @ p["mix_out"][i] for i in range(5)]
        xs = {name: mix(name) + (before - x) * more[i] for i, name in enumerate(names)}
    else:
        xs = {name: mix(name) for name in "rkvg"}
    r, k, v = (into(name, xs[name]) for name in "rkv")
    if seven:
        w = np.exp(-np.exp(-0.5) * mixers.sigmoid(low("decay", xs["w"], np.tanh) + p["decay_bias"]))
        a = mixers.sigmoid(low("rate", xs["a"], plain) + p["rate_bias"])
        if not c.first:
            v = v + (first - v) * mixers.sigmoid(low("value", xs["v"], plain) + p["value_bias"])
        kk = k * p["removed"]
        kk = kk / np.linalg.norm(kk, axis=-1, keepdims=True)
        k = k * (1 + (a - 1) * p["replaced"])
        gate = low("gate", xs["g"], mixers.sigmoid)
    else:
        gate = mixers.silu(into("g", xs["g"]))
        if isinstance(c, TimeMix6Config):
            w = np.exp(-np.exp(low("decay", xs["w"], np.tanh) + p["decay_bias"]))
        else:
            w = np.broadcast_to(np.exp(-np.exp(p["decay"])), k.shape)
    s, y = np.zeros((H, K, K)), np.zeros_like(v)  # of values x keys, as the papers have it
    for t, h in np.ndindex(len(x), H):
        new = np.outer(v[t, h], k[t, h])
        if seven:
            s[h] = s[h] * w[t, h] - np.outer(s[h] @ kk[t, h], kk[t, h] * a[t, h]) + new
            y[t, h] = s[h] @ r[t, h]
        else:
            y[t, h] = (s[h] + new * p["bonus"][h]) @ r[t, h]
            s[h] = s[h] * w[t, h] + new
    mean, var = y.mean(-1, keepdims=True), y.var(-1, keepdims=True)
    y = (y - mean) / np.sqrt(var + 64e-5) * p["norm"] + p["norm_bias"]
    if seven:
        y += (r * k * p["bonus"]).sum(-1, keepdims=True) * v
    return np.einsum("thk,hkd->td", y * gate, p["o"]), s


@ALL
def test_it_is_its_equations(c):
    noise = jax.tree.map(lambda p: 0.3 * np.random.default_rng(p.size).normal(size=p.shape), _initial(c))
    p = jax.tree.map(lambda a, b: np.float32(a + b), _initial(c), noise)
    y, state = jax.jit(lambda p: c.build(3, "mixer").apply({"params": p}, X, HANDED))(p)
    for row, start in enumerate(mixers.START):
        wanted, s = slow(c, p, X[row, start:], FIRST[row, start:])
        np.testing.assert_allclose(y[row, start:], wanted, atol=1e-4)
        np.testing.assert_allclose(state.value[1][row].swapaxes(-1, -2), s, atol=1e-5)


def _initial(c):
    return sharding.unbox(c.build(3, "mixer").init(jax.random.key(0), X, HANDED)["params"])


def test_the_state_has_one_size():
    mixers.the_state_has_one_size(CONFIGS["7"])


def test_a_past_is_as_good_as_the_whole_text():
    mixers.a_past_is_the_whole_text(CONFIGS["6"], 3)


def test_names_and_axes_of_the_weights():
    heads = Axes(("heads", None))
    assert sharding.axes_of(boxed(CONFIGS["6"].build(3, "mixer"), X, CONTEXT)) == {
        **{f"mix_{name}": Axes((None,)) for name in "xrkvgw"},
        "mix_in": Axes(("embed", None, None), (0,)),
        "mix_out": Axes((None, None, "embed"), (1,)),
        **dict.fromkeys("rkvg", Axes(("embed", "heads", None), (0,))),
        "decay_in": Axes(("embed", None), (0,)),
        "decay_out": Axes((None, "heads", None), (0,)),
        **dict.fromkeys(("decay_bias", "bonus", "norm", "norm_bias"), heads),
        "o": Axes(("heads", None, "embed"), (0, 1)),
    }


def test_what_makes_no_sense():
    with pytest.raises(UserError, match="J=3: RWKV's values are as wide as its keys, K=4"):
        TimeMix5Config(2, 4, 3, D=8)
    with pytest.raises(UserError, match="K=64 must divide D=100"):
        rwkv7_layers(2, 100, 400)
    with pytest.raises(UserError, match="mix their values with the first one's"):
        boxed(CONFIGS["7"].build(3, "mixer"), X, CONTEXT)


# Language models of them ---------------------------------------------------------------------------------------------

NORMS = {"embed_norm": LayerNormConfig(), "norm": LayerNormConfig()}
TIMES = {
    "5": TimeMix5Config(2, 8, D=16, chunk_size=8),
    "6": TimeMix6Config(2, 8, D=16, L=2, L_decay=2, chunk_size=8),
}
MODELS = {n: mixers.model(matrix_rwkv_layer(time, ChannelMixConfig(16, 32)), **NORMS) for n, time in TIMES.items()}
LOW = {"L_decay": 2, "L_rate": 2, "L_value": 2, "L_gate": 2, "chunk_size": 8}
MODELS["7"] = tiny.model(D=16, layers=rwkv7_layers(3, 16, 32, 8, **LOW), **NORMS)
EACH = pytest.mark.parametrize("version", MODELS)


@EACH
def test_generating_is_the_full_forward(version):
    mixers.generating_is_the_full_forward(MODELS[version])


@pytest.mark.parametrize(
    ("version", "mesh"),
    [
        ("5", MeshConfig(data=2, context=2, tensor=2)),
        ("6", MeshConfig(2, 2, 2)),
        ("7", MeshConfig(2, 2, 2)),
    ],
    ids=lambda x: x if isinstance(x, str) else name(x),
)
def test_a_mesh_changes_no_number(version, mesh):
    mixers.a_mesh_changes_no_number(MODELS[version], mesh)


def test_later_layers_read_the_first_one_s_values():
    c, p = MODELS["7"], mixers.params(MODELS["7"])
    tokens = jnp.arange(6)[None]
    logits = lambda p: c.build().apply({"params": p}, tokens)
    grad = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(logits(p)))))(p)
    later = grad["segment_1"]["periods"]["block_0"]["time"]["value_bias"]
    assert np.all(np.abs(later) > 0)


def test_it_learns():
    mixers.it_learns(MODELS["7"])
