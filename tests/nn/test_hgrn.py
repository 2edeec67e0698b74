import jax
import numpy as np
import pytest

from jaxlm.nn import BlockConfig, HGRNConfig, MLPConfig
from jaxlm.sharding import MeshConfig
from tests.meshes import name
from tests.nn import mixers
from tests.nn.mixers import CONTEXT, X

C = HGRNConfig(2, 3, chunk_size=3)


def test_it_is_its_equations():
    p = mixers.perturbed(C)
    y, state = jax.jit(lambda p: C.build(3, "mixer").apply({"params": p}, X, CONTEXT.replace(layer=1)))(p)
    p = jax.tree.map(mixers.written, p)
    into = lambda name: np.einsum("btd,dhk->bthk", X, p[name])
    least = mixers.sigmoid(p["bound"] + np.log(1 / 2))  # one of three layers: 1/3
    f = least + (1 - least) * mixers.sigmoid(into("forget"))
    for row, start in enumerate(mixers.START):
        h, ys = np.zeros((2, 3)), []
        for t in range(start, X.shape[1]):
            h = f[row, t] * h + (1 - f[row, t]) * mixers.silu(into("x")[row, t])
            normed = h / np.sqrt(np.mean(h**2) + C.eps) * p["norm"]
            ys.append(np.einsum("hk,hkd->d", normed * mixers.silu(into("gate")[row, t]), p["o"]))
        np.testing.assert_allclose(y[row, start:], ys, atol=1e-5)
        np.testing.assert_allclose(state.value[row], h, atol=1e-5)


def test_a_past_is_as_good_as_the_whole_text():
    mixers.a_past_is_the_whole_text(C, 3)


def test_the_state_has_one_size():
    mixers.the_state_has_one_size(C)


MODEL = mixers.model(BlockConfig(HGRNConfig(2, 8, chunk_size=8), MLPConfig(F=32)))


def test_generating_is_the_full_forward():
    mixers.generating_is_the_full_forward(MODEL)


@pytest.mark.parametrize("mesh", [MeshConfig(2, 2, 2), MeshConfig(data=2, context=2, tensor=2)], ids=name)
def test_a_mesh_changes_no_number(mesh):
    mixers.a_mesh_changes_no_number(MODEL, mesh)


def test_it_learns():
    mixers.it_learns(MODEL)
