import jax
import numpy as np
import pytest

from jaxlm import compat, sharding
from jaxlm.errors import UserError
from jaxlm.models import flops
from jaxlm.nn import ChannelMixConfig, LayerNormConfig, TimeMixConfig, rwkv_layer
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import name
from tests.nn import mixers
from tests.nn.mixers import CONTEXT, D, X
from tests.weights import boxed

Z, F = 12, 10
TIME, CHANNEL = TimeMixConfig(D, Z, chunk_size=3), ChannelMixConfig(D, F)
BOTH = pytest.mark.parametrize("c", [TIME, CHANNEL], ids=["time", "channel"])


def mixtures(p, x_TD, names):
    before = np.pad(x_TD, ((1, 0), (0, 0)))[:-1]
    return [(x_TD * p[f"mix_{name}"] + before * (1 - p[f"mix_{name}"])) @ p[name] for name in names]


def slow_time(p, x_TD):
    k, v, r = mixtures(p, x_TD, "kvr")
    y = np.zeros_like(k)
    for t, z in np.ndindex(*k.shape):
        weights = [np.exp(k[i, z] - (t - 1 - i) * np.exp(p["decay"][z])) for i in range(t)]
        weights.append(np.exp(k[t, z] + p["bonus"][z]))
        y[t, z] = np.dot(weights, v[: t + 1, z]) / np.sum(weights)
    return (mixers.sigmoid(r) * y) @ p["o"]


def slow_channel(p, x_TD):
    k, r = mixtures(p, x_TD, "kr")
    return mixers.sigmoid(r) * (np.maximum(k, 0) ** 2 @ p["o"])


@BOTH
def test_it_is_its_equations(c):
    p = mixers.perturbed(c)
    y, _ = jax.jit(lambda p: c.build(3, "mixer").apply({"params": p}, X, CONTEXT))(p)
    slow = slow_time if c is TIME else slow_channel
    for row, start in enumerate(mixers.START):
        wanted = slow(jax.tree.map(mixers.written, p), X[row, start:])
        np.testing.assert_allclose(y[row, start:], wanted, atol=1e-5)


@BOTH
@pytest.mark.parametrize("new", [1, 3])
def test_a_past_is_as_good_as_the_whole_text(c, new):
    mixers.a_past_is_the_whole_text(c, new)


@BOTH
def test_the_state_has_one_size(c):
    mixers.the_state_has_one_size(c)


def test_names_and_axes_of_the_weights():
    assert sharding.axes_of(boxed(TIME.build(3, "mixer"), X, CONTEXT)) == {
        **dict.fromkeys(("mix_k", "mix_v", "mix_r"), Axes((None,))),
        **dict.fromkeys("kvr", Axes(("embed", "heads"), (0,))),
        **dict.fromkeys(("decay", "bonus"), Axes(("heads",))),
        "o": Axes(("heads", "embed"), (0,)),
    }
    assert sharding.axes_of(boxed(CHANNEL.build(3, "mixer"), X, CONTEXT)) == {
        **dict.fromkeys(("mix_k", "mix_r"), Axes((None,))),
        "k": Axes(("embed", "mlp"), (0,)),
        "r": Axes(("embed", None), (0,)),
        "o": Axes(("mlp", "embed"), (0,)),
    }


def test_how_the_weights_begin():
    p = mixers.initial(TIME)
    assert p["decay"][0] == -5 and p["decay"][-1] == 3 and np.all(np.diff(p["decay"]) > 0)
    np.testing.assert_allclose(p["bonus"][:3], np.log(0.3) + np.array([0, 0.5, -0.5]), atol=1e-6)
    np.testing.assert_allclose(p["mix_k"], np.sqrt(np.arange(D) / D), atol=1e-6)


def test_what_makes_no_sense():
    with pytest.raises(UserError, match="Z=0 must be at least 1"):
        TimeMixConfig(8, 0)
    with pytest.raises(UserError, match="F=0 must be at least 1"):
        ChannelMixConfig(8, 0)


# A language model of them --------------------------------------------------------------------------------------------

MODEL = mixers.model(rwkv_layer(16, 16, 32), embed_norm=LayerNormConfig(), norm=LayerNormConfig())


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
    if mesh.stage > 1 and compat.older(0, 10):
        pytest.skip("on an explicit mesh this jax merges no dimensions where another one is 1")
    mixers.a_mesh_changes_no_number(MODEL, mesh)


def test_it_learns():
    mixers.it_learns(MODEL)


def test_what_it_costs():
    per_layer = 4 * 16 * 16 + 2 * 16 * 32 + 16 * 16
    assert flops.matmul_parameters(MODEL) == 2 * per_layer + 264 * 16
    mixed = 10 * 16 + 15 * 16
    assert flops.train_flops(MODEL, 1000) == 6 * flops.matmul_parameters(MODEL) + 3 * 2 * mixed
