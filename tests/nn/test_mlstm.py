import jax
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.models import flops
from jaxlm.nn import BlockConfig, LayerNormConfig, MLPConfig, MLSTMConfig, PreUpMLSTMConfig
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import name
from tests.nn import mixers
from tests.nn.mixers import CONTEXT, X, sigmoid, silu
from tests.weights import boxed

H, K, J = 2, 4, 3
CONFIGS = {
    "7b": MLSTMConfig(H, K, J, gate_cap=2.0, chunk_size=3),
    "paper": PreUpMLSTMConfig(H, K, W=3, M=2, chunk_size=3),
}
ALL = pytest.mark.parametrize("c", CONFIGS.values(), ids=CONFIGS)


def memory(q, k, v, i, f, scale, eps):
    """One row's layer-normed heads, token by token."""
    s, n, ys = np.zeros((H, K, v.shape[-1])), np.zeros((H, K)), []
    for t in range(len(q)):
        y = np.zeros(v.shape[1:])
        for h in range(H):
            forget, write = sigmoid(f[t, h]), np.exp(i[t, h])
            s[h] = forget * s[h] + write * np.outer(k[t, h], v[t, h])
            n[h] = forget * n[h] + write * k[t, h]
            query = q[t, h] / np.sqrt(K)
            y[h] = query @ s[h] / max(abs(query @ n[h]), 1)
        y = y - y.mean(-1, keepdims=True)
        ys.append(y / np.sqrt((y**2).mean(-1, keepdims=True) + eps) * scale)
    return np.array(ys)


def slow(c, p, x_TD):
    p, heads = jax.tree.map(mixers.written, p), lambda name: np.einsum("td,dhk->thk", x_TD, p[name])
    if isinstance(c, MLSTMConfig):
        i, f = (2 * np.tanh((x_TD @ p[name] + p[f"{name}_bias"]) / 2) for name in "if")
        y = memory(heads("q"), heads("k"), heads("v"), i, f, p["norm"], c.eps) * sigmoid(heads("gate"))
    else:
        x, gate = heads("x"), heads("gate")
        conv = [sum(p["conv"][c.W - 1 - w] * x[t - w] for w in range(c.W) if t >= w) for t in range(len(x))]
        conv = silu(np.array(conv) + p["conv_bias"])

        def blocks(name, x):
            y = np.zeros_like(x)
            for h, n in np.ndindex(H, K // c.M):
                at = slice(n * c.M, (n + 1) * c.M)
                y[:, h, at] = x[:, h, at] @ p[name][h, n]
            return y

        qkv = blocks("q", conv), blocks("k", conv), blocks("v", x)
        i, f = (np.einsum("nthk,nhkg->tg", np.array(qkv), p[name]) + p[f"{name}_bias"] for name in "if")
        y = (memory(*qkv, i, f, p["norm"], c.eps) + p["skip"] * conv) * silu(gate)
    return np.einsum("thk,hkd->td", y, p["o"])


@ALL
def test_it_is_its_equations(c):
    p = mixers.perturbed(c)
    y, _ = jax.jit(lambda p: c.build(3, "mixer").apply({"params": p}, X, CONTEXT))(p)
    for row, start in enumerate(mixers.START):
        np.testing.assert_allclose(y[row, start:], slow(c, p, X[row, start:]), atol=2e-5)


@ALL
@pytest.mark.parametrize("new", [1, 3])
def test_a_past_is_as_good_as_the_whole_text(c, new):
    mixers.a_past_is_the_whole_text(c, new)


@ALL
def test_the_state_has_one_size(c):
    mixers.the_state_has_one_size(c)


def test_names_and_axes_of_the_weights():
    axes = sharding.axes_of(boxed(CONFIGS["paper"].build(3, "mixer"), X, CONTEXT))
    assert axes == {
        **dict.fromkeys(("x", "gate"), Axes(("embed", "heads", None), (0,))),
        "conv": Axes((None, "heads", None)),
        **dict.fromkeys(("conv_bias", "norm", "skip"), Axes(("heads", None))),
        **dict.fromkeys("qkv", Axes(("heads", None, None, None), (2,))),
        **dict.fromkeys("if", Axes((None, "heads", None, None), (0, 1, 2))),
        **dict.fromkeys(("i_bias", "f_bias"), Axes((None,))),
        "o": Axes(("heads", None, "embed"), (0, 1)),
    }
    axes = sharding.axes_of(boxed(CONFIGS["7b"].build(3, "mixer"), X, CONTEXT))
    assert axes["i"] == axes["f"] == Axes(("embed", "heads"), (0,)) and axes["f_bias"] == Axes(("heads",))


def test_how_the_gates_begin():
    p = mixers.initial(CONFIGS["7b"])
    np.testing.assert_array_equal(p["i"], 0)
    np.testing.assert_array_equal(p["i_bias"], -10)
    np.testing.assert_array_equal(p["f_bias"], [3, 6])


def test_what_makes_no_sense():
    with pytest.raises(UserError, match="M=3, the width of blocks, must divide that of a head, K=4"):
        PreUpMLSTMConfig(2, 4, M=3)


# Language models of them ---------------------------------------------------------------------------------------------

MODELS = {
    "7b": mixers.model(BlockConfig(MLSTMConfig(4, 4, 8, chunk_size=8), MLPConfig(24))),
    "paper": mixers.model(BlockConfig(PreUpMLSTMConfig(4, 8, chunk_size=8), None, LayerNormConfig(bias=False))),
}
EACH = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


@EACH
def test_generating_is_the_full_forward(model):
    mixers.generating_is_the_full_forward(model)


@pytest.mark.parametrize(
    "model, mesh",
    [
        ("7b", MeshConfig(data=1, fsdp=2, tensor=4)),
        ("paper", MeshConfig(data=2, context=2, tensor=2)),
        ("paper", MeshConfig(2, 2, 2, explicit=False)),
    ],
    ids=lambda x: x if isinstance(x, str) else name(x),
)
def test_a_mesh_changes_no_number(model, mesh):
    mixers.a_mesh_changes_no_number(MODELS[model], mesh)


def test_it_learns():
    mixers.it_learns(MODELS["paper"])


def test_what_it_costs():
    per_layer = 16 * (2 * 16 + 3 * 32 + 8) + 3 * 16 * 24
    assert flops.matmul_parameters(MODELS["7b"]) == 2 * per_layer + 264 * 16
