import dataclasses

import jax
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.models import flops
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig, RGLRUConfig
from jaxlm.sharding import Axes, MeshConfig
from tests import tiny
from tests.meshes import name
from tests.nn import mixers
from tests.nn.mixers import CONTEXT, X
from tests.weights import boxed

Z, H, K = 12, 4, 3
C = RGLRUConfig(Z, H, chunk_size=3)


def slow(p, x_TD):
    """The paper's block, token by token, with weights p."""
    p = jax.tree.map(mixers.written, p)
    into = lambda name: np.einsum("td,dhk->thk", x_TD, p[name]) + p[f"{name}_bias"]
    x, gate = into("x"), into("gate")
    gelu = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    h, ys = np.zeros((H, K)), []
    for t in range(len(x)):
        u = sum(p["conv"][C.W - 1 - w] * x[t - w] for w in range(C.W) if t >= w) + p["conv_bias"]
        i, r = (np.einsum("hk,hkj->hj", u, p[name]) + p[f"{name}_bias"] for name in ("input", "recurrent"))
        a = np.exp(-8 * mixers.sigmoid(r) * mixers.softplus(p["lambda"]))
        h = a * h + (np.sqrt(1 - a * a) if t else 1) * mixers.sigmoid(i) * u
        ys.append(np.einsum("hk,hkd->d", h * gelu[t], p["out"]) + p["out_bias"])
    return np.array(ys), h


def test_it_is_its_equations():
    p = mixers.perturbed(C)
    y, state = jax.jit(lambda p: C.build(3, "mixer").apply({"params": p}, X, CONTEXT))(p)
    for row, start in enumerate(mixers.START):
        wanted, h = slow(p, X[row, start:])
        np.testing.assert_allclose(y[row, start:], wanted, atol=1e-5)
        np.testing.assert_allclose(state.value[1][row], h, atol=1e-5)


@pytest.mark.parametrize("new", [1, 3])
def test_a_past_is_as_good_as_the_whole_text(new):
    mixers.a_past_is_the_whole_text(C, new)


def test_the_state_has_one_size():
    mixers.the_state_has_one_size(C)


def test_names_and_axes_of_the_weights():
    assert sharding.axes_of(boxed(C.build(3, "mixer"), X, CONTEXT)) == {
        **dict.fromkeys(("x", "gate"), Axes(("embed", "heads", None), (0,))),
        "conv": Axes((None, "heads", None)),
        **dict.fromkeys(("input", "recurrent"), Axes(("heads", None, None), (1,))),
        **dict.fromkeys(
            ("x_bias", "gate_bias", "conv_bias", "input_bias", "recurrent_bias", "lambda"), Axes(("heads", None))
        ),
        "out": Axes(("heads", None, "embed"), (0, 1)),
        "out_bias": Axes((None,)),
    }


def test_how_the_weights_begin():
    kept = np.exp(-mixers.softplus(mixers.initial(RGLRUConfig(2000, 1000))["lambda"]))
    assert 0.9 <= kept.min() < 0.902 and 0.998 < kept.max() <= 0.9991
    np.testing.assert_allclose(np.mean(kept**2), (0.9**2 + 0.999**2) / 2, atol=0.01)


def test_what_makes_no_sense():
    with pytest.raises(UserError, match="H=5 blocks must divide Z=12 units"):
        RGLRUConfig(12, 5)
    with pytest.raises(UserError, match="unknown activation 'sine'"):
        RGLRUConfig(12, 4, activation="sine")


# A language model of them --------------------------------------------------------------------------------------------

MODEL = mixers.model(BlockConfig(RGLRUConfig(32, 4, chunk_size=8), None))
LOCAL = BlockConfig(AttentionConfig(4, 8, G=1, window=4), MLPConfig(16))
MIXED = dataclasses.replace(
    MODEL, layers=(LayersConfig((BlockConfig(RGLRUConfig(32, 4, chunk_size=8), MLPConfig(16)), LOCAL), 1),)
)


@pytest.mark.parametrize("config", [MODEL, MIXED], ids=["alone", "with local attention"])
def test_generating_is_the_full_forward(config):
    mixers.generating_is_the_full_forward(config)


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(2, 2, 2),
        MeshConfig(data=1, fsdp=2, tensor=4, explicit=False),
        MeshConfig(data=2, context=2, tensor=2),
        MeshConfig(data=2, stage=2, fsdp=2),
    ],
    ids=lambda x: name(x) + "-stages" * (x.stage > 1),
)
def test_a_mesh_changes_no_number(mesh):
    mixers.a_mesh_changes_no_number(MODEL, mesh)


def test_it_learns():
    mixers.it_learns(MODEL)


def test_what_it_costs():
    per_layer = 3 * 16 * 32 + 2 * 4 * 8 * 8
    assert flops.matmul_parameters(MODEL) == 2 * per_layer + 264 * tiny.model().D // 2
    unit = 2 * 4 * 32 + 4 * 32
    assert flops.train_flops(MODEL, 1000) == 6 * flops.matmul_parameters(MODEL) + 3 * 2 * unit
