import jax
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.models import flops
from jaxlm.nn import BlockConfig, GLAConfig, HGRN2Config, MLPConfig, RetNetConfig, RopeConfig
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import name
from tests.nn import mixers
from tests.nn.mixers import CONTEXT, X
from tests.weights import boxed

H, K, J = 2, 4, 6
CONFIGS = {
    "retnet": RetNetConfig(H, K, J, chunk_size=3),
    "gla": GLAConfig(H, K, J, L=3, chunk_size=2),
    "hgrn2": HGRN2Config(H, K, chunk_size=4),
}
ALL = pytest.mark.parametrize("c", CONFIGS.values(), ids=CONFIGS)


def unit(x, eps, axes=-1):
    return x / np.sqrt(np.mean(x**2, axes, keepdims=True) + eps)


def slow(c, p, x_TD, layer=0, depth=3):
    """The layer, token by token, with weights p."""
    p = jax.tree.map(mixers.written, p)
    into = lambda name: np.einsum("td,dhk->thk", x_TD, p[name])
    q, v = into("q"), into("v")
    if isinstance(c, RetNetConfig):
        angle = np.arange(len(x_TD))[:, None] * 10_000.0 ** -(np.arange(0, K, 2) / K)
        turn = np.exp(1j * angle)[:, None]

        def turned(x):
            z = (x[..., : K // 2] + 1j * x[..., K // 2 :]) * turn
            return np.concatenate([z.real, z.imag], -1)

        q, k = turned(q), turned(into("k")) / np.sqrt(K)
        decay = np.broadcast_to((1 - 2.0 ** (-5 - np.arange(H)))[:, None], q.shape)
    elif isinstance(c, GLAConfig):
        q, k = q / np.sqrt(K), into("k")
        gate = np.einsum("tl,lhk->thk", x_TD @ p["decay_in"], p["decay_out"]) + p["decay_bias"]
        decay = mixers.sigmoid(gate) ** (1 / 16)
    else:
        least = mixers.sigmoid(p["bound"] + np.log(max(layer, 1e-9 * depth)) - np.log(depth - layer))
        decay = least + (1 - least) * mixers.sigmoid(into("forget"))
        q, k = mixers.silu(q), 1 - decay
    s, y = np.zeros((H, K, v.shape[-1])), np.zeros_like(v)
    for t in range(len(x_TD)):
        s = decay[t][..., None] * s + k[t][..., None] * v[t][:, None]
        y[t] = np.einsum("hk,hkj->hj", q[t], s)
    if isinstance(c, HGRN2Config):
        y = unit(y, c.eps, (-2, -1)) * p["norm"]
    else:
        y = unit(y - y.mean(-1, keepdims=True), c.eps) if isinstance(c, RetNetConfig) else unit(y, c.eps) * p["norm"]
        y = y * mixers.silu(into("gate"))
    return np.einsum("thj,hjd->td", y, p["o"]), s


@ALL
def test_it_is_its_equations(c):
    p = mixers.perturbed(c)
    y, state = jax.jit(lambda p: c.build(3, "mixer").apply({"params": p}, X, CONTEXT))(p)
    for row, start in enumerate(mixers.START):
        wanted, s = slow(c, p, X[row, start:])
        np.testing.assert_allclose(y[row, start:], wanted, atol=5e-5)
        np.testing.assert_allclose(state.value[row], s, atol=1e-5)


def test_deeper_layers_forget_less():
    c = CONFIGS["hgrn2"]
    p = mixers.perturbed(c)
    context = CONTEXT.replace(layer=2)  # pyright: ignore
    y, _ = jax.jit(lambda p: c.build(3, "mixer").apply({"params": p}, X, context))(p)
    np.testing.assert_allclose(y[0], slow(c, p, X[0], layer=2)[0], atol=5e-5)


@ALL
def test_a_past_is_as_good_as_the_whole_text(c):
    mixers.a_past_is_the_whole_text(c, 3)


@ALL
def test_the_state_has_one_size(c):
    mixers.the_state_has_one_size(c)


def test_names_and_axes_of_the_weights():
    assert sharding.axes_of(boxed(CONFIGS["gla"].build(3, "mixer"), X, CONTEXT)) == {
        **dict.fromkeys(("q", "k", "v", "gate"), Axes(("embed", "heads", None), (0,))),
        "decay_in": Axes(("embed", None), (0,)),
        "decay_out": Axes((None, "heads", None), (0,)),
        "decay_bias": Axes(("heads", None)),
        "norm": Axes((None,)),
        "o": Axes(("heads", None, "embed"), (0, 1)),
    }


def test_what_makes_no_sense():
    with pytest.raises(UserError, match="but 1 of the head width 5 is 5"):
        RetNetConfig(2, 5)
    with pytest.raises(UserError, match="J=0 must be at least 1"):
        GLAConfig(2, 4, 0)


# A language model of them --------------------------------------------------------------------------------------------

LAYERS = {
    "retnet": RetNetConfig(2, 4, 8, rope=RopeConfig(), chunk_size=8),
    "gla": GLAConfig(2, 4, 8, L=2, chunk_size=8),
    "hgrn2": HGRN2Config(2, 8, chunk_size=8),
}
MODELS = {kind: mixers.model(BlockConfig(mixer, MLPConfig(F=32))) for kind, mixer in LAYERS.items()}


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_generating_is_the_full_forward(config):
    mixers.generating_is_the_full_forward(config)


@pytest.mark.parametrize(
    ("kind", "mesh"),
    [
        ("gla", MeshConfig(2, 2, 2)),
        ("gla", MeshConfig(2, 2, 2, explicit=False)),
        ("retnet", MeshConfig(data=2, context=2, tensor=2)),
        ("hgrn2", MeshConfig(data=2, stage=2, tensor=2)),
    ],
    ids=lambda x: x if isinstance(x, str) else name(x) + "-stages" * (x.stage > 1),
)
def test_a_mesh_changes_no_number(kind, mesh):
    mixers.a_mesh_changes_no_number(MODELS[kind], mesh)


def test_it_learns():
    mixers.it_learns(MODELS["gla"])


def test_what_it_costs():
    per_layer = 16 * (2 * (4 + 4 + 8 + 8) + 2) + 2 * 8 + 16 * 16 + 3 * 16 * 32
    assert flops.matmul_parameters(MODELS["gla"]) == 2 * per_layer + 264 * 16
    scan = 2 * (2 * 8 * (4 + 8) + 4 * 4 * 8)
    assert flops.train_flops(MODELS["gla"], 1000) == 6 * flops.matmul_parameters(MODELS["gla"]) + 3 * 2 * scan
