from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.decode import cache
from jaxlm.errors import UserError
from jaxlm.nn import BlockConfig, Context, HyenaConfig, MLPConfig
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import name
from tests.nn import mixers
from tests.nn.mixers import CONTEXT, POSITIONS, SEGMENTS, START, B, D, T, X
from tests.weights import boxed

F = 6
C = HyenaConfig(F, length=16, order=3, E=5, L=4, wave=2.0)


def filters(p):
    """Each weight, from the network of its position."""
    k = np.zeros((T, C.order, F))
    for t in range(T):
        share = t / C.length
        h = np.array([share, *(np.cos(2 * np.pi * f * share) for f in (1e-4, 1))])
        h = np.concatenate([h, [-np.sin(2 * np.pi * f * share) for f in (1e-4, 1)]])
        for i in range(3):
            h = np.sin(p["wave"] * (h @ p[f"filter{i}"] + p[f"filter{i}_bias"]))
        k[t] = np.einsum("l,lnf->nf", h, p["filter"])
        for f in range(F):
            k[t, :, f] *= 0.01 ** (share * (1 / 0.3 + f / (F - 1) * (1 / 1.5 - 1 / 0.3)))
    k[0] += p["skip"]
    return k


def slow(p, x_TD):
    p = jax.tree.map(mixers.written, p)
    x, k = np.einsum("td,dnf->tnf", x_TD, p["x"]), filters(p)
    x = [sum(p["conv"][C.W - 1 - w] * x[t - w] for w in range(C.W) if t >= w) + p["conv_bias"] for t in range(len(x))]
    x = np.array(x)
    u = x[:, 0]
    for n in range(C.order):
        u = x[:, n + 1] * np.array([sum(k[t - s, n] * u[s] for s in range(t + 1)) for t in range(len(x))])
    return u @ p["o"]


def test_it_is_its_equations():
    p = mixers.perturbed(C)
    y, _ = jax.jit(lambda p: C.build(3, "mixer").apply({"params": p}, X, CONTEXT))(p)
    for row, start in enumerate(START):
        np.testing.assert_allclose(y[row, start:], slow(p, X[row, start:]), atol=2e-5)


@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("rows", ["in step", "each"])
def test_a_past_is_as_good_as_the_whole_text(new, rows):
    p, old = mixers.initial(C), T - new
    positions: Any = POSITIONS
    segments: Any = SEGMENTS
    apply = jax.jit(lambda x, context, past: C.build(3, "mixer").apply({"params": p}, x, context, past))
    whole, _ = apply(X, CONTEXT, None)
    _, state = apply(X[:, :old], Context(positions[:, :old], segments[:, :old]), None)
    (past,) = cache.write((C.init_cache(B, T + 2, jnp.float32),), (state,), jnp.zeros((), jnp.int32))
    end = jnp.asarray(old if rows == "in step" else np.full(B, old))
    y, _ = apply(X[:, old:], Context(positions[:, old:], segments[:, old:], end, jnp.asarray(START)), past)
    np.testing.assert_allclose(y, whole[:, old:], atol=1e-5)


def test_the_state_is_the_row():
    """order F numbers a token, and what the short convolution saw."""
    sizes = [sum(x.nbytes for x in jax.tree.leaves(C.init_cache(1, S, jnp.bfloat16))) for S in (100, 200)]
    assert sizes[1] - sizes[0] == 100 * C.order * F * 2


def test_names_and_axes_of_the_weights():
    assert sharding.axes_of(boxed(C.build(3, "mixer"), X, CONTEXT)) == {
        "x": Axes(("embed", None, "mlp"), (0,)),
        "conv": Axes((None, None, "mlp")),
        **dict.fromkeys(("conv_bias", "skip"), Axes((None, "mlp"))),
        **dict.fromkeys(("filter0", "filter1", "filter2"), Axes((None, None), (0,))),
        **dict.fromkeys(("filter0_bias", "filter1_bias", "filter2_bias", "wave"), Axes((None,))),
        "filter": Axes((None, None, "mlp"), (0,)),
        "o": Axes(("mlp", "embed"), (0,)),
    }
    assert X.shape[-1] == D


def test_what_makes_no_sense():
    with pytest.raises(UserError, match="E=4 features of a position must be odd"):
        HyenaConfig(8, 16, E=4)


# A language model of them --------------------------------------------------------------------------------------------

MODEL = mixers.model(BlockConfig(HyenaConfig(16, length=8, E=5, L=8, wave=1.0), MLPConfig(24)))


def test_generating_is_the_full_forward():
    """Also beyond the length in which filters are measured."""
    mixers.generating_is_the_full_forward(MODEL)


@pytest.mark.parametrize("mesh", [MeshConfig(data=1, fsdp=2, tensor=4), MeshConfig(2, 2, 2, explicit=False)], ids=name)
def test_a_mesh_changes_no_number(mesh):
    mixers.a_mesh_changes_no_number(MODEL, mesh)


def test_it_learns():
    mixers.it_learns(MODEL)
