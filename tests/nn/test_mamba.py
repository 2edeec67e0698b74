import jax
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.models import flops
from jaxlm.nn import BlockConfig, MambaConfig
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import name
from tests.nn import mixers
from tests.nn.mixers import CONTEXT, X
from tests.weights import boxed

F, Z = 12, 4
CONFIGS = {
    "plain": MambaConfig(F, Z),
    "falcon": MambaConfig(F, Z, L=3, W=3, conv_bias=False, eps=1e-3, chunk_size=2),
    "biased": MambaConfig(F, Z, bias=True, chunk_size=3),
}
ALL = pytest.mark.parametrize("c", CONFIGS.values(), ids=CONFIGS)


def slow(c, p, x_TD):
    """The paper's layer, token by token, with weights p."""
    p = jax.tree.map(mixers.written, p)
    into = lambda name: x_TD @ p[name] + (p[f"{name}_bias"] if c.bias else 0)
    normed = lambda x: x if c.eps is None else x / np.sqrt(np.mean(x * x) + c.eps)
    x_TF, gate_TF = into("x"), into("gate")
    h, y = np.zeros((F, Z)), []
    for t in range(len(x_TF)):
        seen = [p["conv"][c.W - 1 - w] * x_TF[t - w] for w in range(c.W) if t >= w]
        u = mixers.silu(sum(seen) + (p["conv_bias"] if c.conv_bias else 0))
        delta = mixers.softplus(normed(u @ p["dt_in"]) @ p["dt"] + p["dt_bias"])
        h = np.exp(-delta[:, None] * np.exp(p["a_log"])) * h + (delta * u)[:, None] * normed(u @ p["b"])[None]
        y.append((h @ normed(u @ p["c"]) + p["skip"] * u) * mixers.silu(gate_TF[t]))
    return np.array(y) @ p["o"] + (p["o_bias"] if c.bias else 0), h


@ALL
def test_it_is_its_equations(c):
    p = mixers.perturbed(c)
    y, state = jax.jit(lambda p: c.build(3, "mixer").apply({"params": p}, X, CONTEXT))(p)
    for row, start in enumerate(mixers.START):
        wanted, h = slow(c, p, X[row, start:])
        np.testing.assert_allclose(y[row, start:], wanted, atol=1e-5)
        np.testing.assert_allclose(state.value[1][row], h, atol=1e-5)


@ALL
@pytest.mark.parametrize("new", [1, 3])
def test_a_past_is_as_good_as_the_whole_text(c, new):
    mixers.a_past_is_the_whole_text(c, new)


def test_the_state_has_one_size():
    mixers.the_state_has_one_size(CONFIGS["plain"])


def test_names_shapes_and_axes_of_the_weights():
    tree = boxed(CONFIGS["biased"].build(3, "mixer"), X, CONTEXT)
    assert sharding.axes_of(tree) == {
        **dict.fromkeys(("x", "gate"), Axes(("embed", "mlp"), (0,))),
        **dict.fromkeys(("x_bias", "gate_bias", "conv_bias", "dt_bias", "skip"), Axes(("mlp",))),
        "conv": Axes((None, "mlp")),
        **dict.fromkeys(("dt_in", "b", "c"), Axes(("mlp", None), (0,))),
        "dt": Axes((None, "mlp"), (0,)),
        "a_log": Axes(("mlp", None)),
        "o": Axes(("mlp", "embed"), (0,)),
        "o_bias": Axes((None,)),
    }
    shapes = jax.tree.map(lambda x: x.shape, sharding.unbox(tree))
    assert shapes["conv"] == (4, F) and shapes["dt_in"] == (F, 1) and shapes["a_log"] == (F, Z)


def test_how_the_weights_begin():
    p = mixers.initial(MambaConfig(2000, Z))
    np.testing.assert_allclose(np.exp(p["a_log"]), np.tile(np.arange(1, Z + 1), (2000, 1)), rtol=1e-5)
    np.testing.assert_array_equal(p["skip"], 1)
    size = mixers.softplus(p["dt_bias"])
    assert 1e-3 <= size.min() < 1.1e-3 and 0.09 < size.max() <= 0.1001
    np.testing.assert_allclose(np.median(size), 1e-2, rtol=0.2)
    assert np.abs(p["dt"]).max() <= 1


def test_what_makes_no_sense():
    with pytest.raises(UserError, match="W=1 must be at least 2"):
        MambaConfig(12, W=1)
    with pytest.raises(UserError, match="chunk_size=0 must be at least 1"):
        MambaConfig(12, chunk_size=0)


# A language model of them --------------------------------------------------------------------------------------------

MODEL = mixers.model(BlockConfig(MambaConfig(32, Z, chunk_size=8), None))


def test_generating_is_the_full_forward():
    mixers.generating_is_the_full_forward(MODEL)


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(2, 2, 2),
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
    per_layer = 2 * 16 * 32 + 32 * (1 + 2 * Z) + 1 * 32 + 32 * 16
    assert flops.matmul_parameters(MODEL) == 2 * per_layer + 264 * 16
    scan = 3 * 2 * (2 * 4 * 32 + 6 * 32 * Z)
    assert flops.train_flops(MODEL, 10) == flops.train_flops(MODEL, 10**3) == 6 * flops.matmul_parameters(MODEL) + scan
