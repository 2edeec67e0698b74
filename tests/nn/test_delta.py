import jax
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import AttentionConfig, BlockConfig, DeltaNetConfig, LayersConfig, MLPConfig
from jaxlm.sharding import Axes, MeshConfig
from tests import tiny
from tests.meshes import name
from tests.nn import mixers
from tests.nn.mixers import CONTEXT, X
from tests.weights import boxed

H, K, J = 2, 4, 3
CONFIGS = {
    "plain": DeltaNetConfig(H, K, J, chunk_size=3),
    "gated": DeltaNetConfig(H, K, J, W=3, decay="head", negative=True, chunk_size=4),
    "channels": DeltaNetConfig(H, K, decay="channel", L=2, chunk_size=2),
}
ALL = pytest.mark.parametrize("c", CONFIGS.values(), ids=CONFIGS)


def slow(c, p, x_TD):
    """The layer, token by token, with weights p."""
    p = jax.tree.map(mixers.written, p)
    into = lambda name: np.einsum("td,dh...->th...", x_TD, p[name])

    def conv(name):
        x = into(name)
        y = [sum(p[f"conv_{name}"][c.W - 1 - w] * x[t - w] for w in range(c.W) if t >= w) for t in range(len(x))]
        return mixers.silu(np.array(y))

    unit = lambda x: x / np.sqrt((x**2).sum(-1, keepdims=True) + 1e-6)
    q, k, v = unit(conv("q")) / np.sqrt(K), unit(conv("k")), conv("v")
    rate = mixers.sigmoid(into("rate")) * (2 if c.negative else 1)
    decay = np.ones_like(k)
    if c.decay == "head":
        decay *= np.exp(-np.exp(p["a_log"]) * mixers.softplus(into("decay") + p["decay_bias"][:, 0]))[..., None]
    elif c.decay == "channel":
        step = np.einsum("tl,lhk->thk", x_TD @ p["decay_in"], p["decay_out"]) + p["decay_bias"]
        decay = np.exp(-np.exp(p["a_log"])[:, None] * mixers.softplus(step))
    s, y = np.zeros((H, K, v.shape[-1])), np.zeros_like(v)
    for t, h in np.ndindex(len(x_TD), H):
        removed = np.eye(K) - rate[t, h] * np.outer(k[t, h], k[t, h])
        s[h] = removed @ np.diag(decay[t, h]) @ s[h] + rate[t, h] * np.outer(k[t, h], v[t, h])
        y[t, h] = q[t, h] @ s[h]
    y = y / np.sqrt(np.mean(y**2, -1, keepdims=True) + c.eps) * p["norm"]
    y = y if c.decay is None else y * mixers.silu(into("gate"))
    return np.einsum("thj,hjd->td", y, p["o"]), s


@ALL
def test_it_is_its_equations(c):
    p = mixers.perturbed(c)
    y, state = jax.jit(lambda p: c.build(3, "mixer").apply({"params": p}, X, CONTEXT))(p)
    for row, start in enumerate(mixers.START):
        wanted, s = slow(c, p, X[row, start:])
        np.testing.assert_allclose(y[row, start:], wanted, atol=5e-5)
        np.testing.assert_allclose(state.value[1][row], s, atol=1e-5)


@ALL
def test_a_past_is_as_good_as_the_whole_text(c):
    mixers.a_past_is_the_whole_text(c, 3)


def test_the_state_has_one_size():
    mixers.the_state_has_one_size(CONFIGS["gated"])


def test_names_and_axes_of_the_weights():
    assert sharding.axes_of(boxed(CONFIGS["gated"].build(3, "mixer"), X, CONTEXT)) == {
        **dict.fromkeys(("q", "k", "v", "gate"), Axes(("embed", "heads", None), (0,))),
        **dict.fromkeys(("conv_q", "conv_k", "conv_v"), Axes((None, "heads", None))),
        **dict.fromkeys(("rate", "decay"), Axes(("embed", "heads"), (0,))),
        "decay_bias": Axes(("heads", None)),
        "a_log": Axes(("heads",)),
        "norm": Axes((None,)),
        "o": Axes(("heads", None, "embed"), (0, 1)),
    }


def test_what_makes_no_sense():
    with pytest.raises(UserError, match="W=1 must be at least 2"):
        DeltaNetConfig(2, 4, W=1)
    with pytest.raises(UserError, match="K=0 must be at least 1"):
        DeltaNetConfig(2, 0)


# A language model of them, every second layer attention --------------------------------------------------------------

BLOCKS = (
    BlockConfig(DeltaNetConfig(2, 8, decay="head", chunk_size=8), MLPConfig(F=32)),
    BlockConfig(AttentionConfig(H=2, K=8), MLPConfig(F=32)),
)
MODEL = tiny.model(D=16, layers=(LayersConfig(BLOCKS, 2),))


def test_generating_is_the_full_forward():
    mixers.generating_is_the_full_forward(MODEL)


@pytest.mark.parametrize("mesh", [MeshConfig(2, 2, 2), MeshConfig(data=2, context=2, tensor=2)], ids=name)
def test_a_mesh_changes_no_number(mesh):
    mixers.a_mesh_changes_no_number(MODEL, mesh)


def test_it_learns():
    mixers.it_learns(MODEL)
