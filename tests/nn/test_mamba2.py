import jax
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.models import flops
from jaxlm.nn import BlockConfig, Mamba2Config
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import name
from tests.nn import mixers
from tests.nn.mixers import CONTEXT, X
from tests.weights import boxed

H, K, Z = 4, 3, 5
CONFIGS = {
    "one group": Mamba2Config(H, K, Z=Z),
    "groups": Mamba2Config(H, K, G=2, Z=Z, W=3, conv_bias=False, chunk_size=2),
}
ALL = pytest.mark.parametrize("c", CONFIGS.values(), ids=CONFIGS)


def slow(c, p, x_TD):
    """The paper's layer, token by token, with weights p."""
    p = jax.tree.map(mixers.written, p)
    x, gate = (np.einsum("td,dhk->thk", x_TD, p[name]) for name in ("x", "gate"))
    b, c_ = (np.einsum("td,dgz->tgz", x_TD, p[name]) for name in "bc")
    size = mixers.softplus(x_TD @ p["dt"] + p["dt_bias"])

    def conv(name, x):
        y = [sum(p[f"conv_{name}"][c.W - 1 - w] * x[t - w] for w in range(c.W) if t >= w) for t in range(len(x))]
        return mixers.silu(np.array(y) + (p[f"conv_{name}_bias"] if c.conv_bias else 0))

    x, b, c_ = conv("x", x), conv("b", b), conv("c", c_)
    s, ys = np.zeros((H, K, Z)), []
    for t in range(len(x)):
        y = np.zeros((H, K))
        for h in range(H):
            g = h // (H // c.G)
            s[h] = np.exp(-size[t, h] * np.exp(p["a_log"][h])) * s[h] + size[t, h] * np.outer(x[t, h], b[t, g])
            y[h] = s[h] @ c_[t, g] + p["skip"][h] * x[t, h]
        y = y * mixers.silu(gate[t])
        for group in np.split(y, c.G):  # views
            group /= np.sqrt(np.mean(group**2) + c.eps)
        ys.append(np.einsum("hk,hkd->d", y * p["norm"], p["o"]))
    return np.array(ys), s


@ALL
def test_it_is_its_equations(c):
    p = mixers.perturbed(c)
    y, state = jax.jit(lambda p: c.build(3, "mixer").apply({"params": p}, X, CONTEXT))(p)
    for row, start in enumerate(mixers.START):
        wanted, s = slow(c, p, X[row, start:])
        np.testing.assert_allclose(y[row, start:], wanted, atol=2e-5)
        np.testing.assert_allclose(state.value[1][row], s, atol=1e-5)


@ALL
@pytest.mark.parametrize("new", [1, 3])
def test_a_past_is_as_good_as_the_whole_text(c, new):
    mixers.a_past_is_the_whole_text(c, new)


def test_the_state_has_one_size():
    mixers.the_state_has_one_size(CONFIGS["groups"])


def test_names_and_axes_of_the_weights():
    assert sharding.axes_of(boxed(CONFIGS["one group"].build(3, "mixer"), X, CONTEXT)) == {
        **dict.fromkeys(("x", "gate"), Axes(("embed", "heads", None), (0,))),
        **dict.fromkeys(("b", "c"), Axes(("embed", None, None), (0,))),
        "dt": Axes(("embed", "heads"), (0,)),
        "conv_x": Axes((None, "heads", None)),
        **dict.fromkeys(("conv_b", "conv_c"), Axes((None, None, None))),
        **dict.fromkeys(("conv_x_bias", "norm"), Axes(("heads", None))),
        **dict.fromkeys(("conv_b_bias", "conv_c_bias"), Axes((None, None))),
        **dict.fromkeys(("dt_bias", "a_log", "skip"), Axes(("heads",))),
        "o": Axes(("heads", None, "embed"), (0, 1)),
    }


def test_how_the_weights_begin():
    p = mixers.initial(Mamba2Config(2000, 1, Z=1))
    rate = np.exp(p["a_log"])
    assert 1 <= rate.min() < 1.1 and 15.9 < rate.max() <= 16 and abs(rate.mean() - 8.5) < 0.5
    np.testing.assert_array_equal(p["norm"], 1)


def test_what_makes_no_sense():
    with pytest.raises(UserError, match="G=3 groups must divide H=4 heads"):
        Mamba2Config(4, G=3)


# A language model of them --------------------------------------------------------------------------------------------

MODEL = mixers.model(BlockConfig(Mamba2Config(4, 8, G=2, Z=8, chunk_size=8), None))


def test_generating_is_the_full_forward():
    mixers.generating_is_the_full_forward(MODEL)


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=1, fsdp=2, tensor=4),
        MeshConfig(2, 2, 2, explicit=False),
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
    per_layer = 16 * (3 * 32 + 4 + 2 * 16)
    assert flops.matmul_parameters(MODEL) == 2 * per_layer + 264 * 16
    scan = 2 * 4 * (32 + 2 * 16) + 2 * 8 * (16 + 32) + 4 * 32 * 8
    assert flops.train_flops(MODEL, 1000) == 6 * flops.matmul_parameters(MODEL) + 3 * 2 * scan
