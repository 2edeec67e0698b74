import jax
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import BlockConfig, MLPConfig, SLSTMConfig, xlstm_layers
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import name
from tests.nn import mixers
from tests.nn.mixers import CONTEXT, X, sigmoid, silu
from tests.weights import boxed

H, K = 2, 4
C = SLSTMConfig(H, K, W=3)


def slow(p, x_TD):
    """The paper's layer, token by token."""
    p, x = jax.tree.map(mixers.written, p), x_TD.reshape(-1, H, K)
    conv = [sum(p["conv"][C.W - 1 - w] * x[t - w] for w in range(C.W) if t >= w) for t in range(len(x))]
    conv = silu(np.array(conv) + p["conv_bias"])
    h, c, n, ys = np.zeros((H, K)), np.zeros((H, K)), np.zeros((H, K)), []
    for t in range(len(x)):
        read = (conv[t], conv[t], x[t], x[t])
        i, f, z, o = (
            np.array([read[g][a] @ p["x"][g, a] + h[a] @ p["h"][a, :, g] for a in range(H)]) + p["bias"][g]
            for g in range(4)
        )
        c, n = sigmoid(f) * c + np.exp(i) * np.tanh(z), sigmoid(f) * n + np.exp(i)
        h = sigmoid(o) * c / n
        y = h - h.mean(-1, keepdims=True)
        ys.append((y / np.sqrt((y**2).mean(-1, keepdims=True) + C.eps) * p["norm"]).reshape(-1))
    return np.array(ys)


def test_it_is_its_equations():
    p = mixers.perturbed(C)
    y, _ = jax.jit(lambda p: C.build(3, "mixer").apply({"params": p}, X, CONTEXT))(p)
    for row, start in enumerate(mixers.START):
        np.testing.assert_allclose(y[row, start:], slow(p, X[row, start:]), atol=2e-5)


@pytest.mark.parametrize("new", [1, 3])
def test_a_past_is_as_good_as_the_whole_text(new):
    mixers.a_past_is_the_whole_text(C, new)


def test_the_state_has_one_size():
    mixers.the_state_has_one_size(C)


def test_names_and_axes_of_the_weights():
    assert sharding.axes_of(boxed(C.build(3, "mixer"), X, CONTEXT)) == {
        "conv": Axes((None, "heads", None)),
        **dict.fromkeys(("conv_bias", "norm"), Axes(("heads", None))),
        "x": Axes((None, "heads", None, None), (2,)),
        "h": Axes(("heads", None, None, None), (1,)),
        "bias": Axes((None, "heads", None)),
    }


# xLSTM[1:1] ----------------------------------------------------------------------------------------------------------

MODEL = mixers.model(BlockConfig(SLSTMConfig(4, 4), MLPConfig(24, "gelu")))


def test_layers_alternate():
    groups = xlstm_layers(16, 2, 8, 3, 1)
    assert [group.repeat for group in groups] == [2] and len(groups[0].blocks) == 4
    kinds = ["PreUpMLSTMConfig"] * 3 + ["SLSTMConfig"]
    assert [type(block.mixers[0]).__name__ for block in groups[0].blocks] == kinds


@pytest.mark.parametrize(
    "sizes, problem",
    [
        ((16, 2, 8, 0, 0), r"xLSTM\[0:0\] is a pattern of 0 layers"),
        ((16, 2, 8, 2, 1), r"xLSTM\[2:1\] is a pattern of 3 layers, which must divide all 8"),
        ((16, 3, 8, 1, 1), "H=3 heads must divide the model's width D=16"),
    ],
)
def test_patterns_that_make_no_sense(sizes, problem):
    with pytest.raises(UserError, match=problem):
        xlstm_layers(*sizes)


def test_generating_is_the_full_forward():
    mixers.generating_is_the_full_forward(MODEL)


@pytest.mark.parametrize(
    "mesh", [MeshConfig(data=1, fsdp=2, tensor=4), MeshConfig(data=2, context=2, tensor=2)], ids=name
)
def test_a_mesh_changes_no_number(mesh):
    mixers.a_mesh_changes_no_number(MODEL, mesh)


def test_it_learns():
    mixers.it_learns(MODEL)
