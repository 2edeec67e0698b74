import dataclasses

import jax
import numpy as np
import pytest

from jaxlm import sharding
from jaxlm.errors import UserError
from jaxlm.nn import BlockConfig, Context, H3Config, MLPConfig, S4Config
from jaxlm.ops import hippo_legs, s4d_rates
from jaxlm.sharding import Axes, MeshConfig
from tests.meshes import name
from tests.nn import mixers
from tests.nn.mixers import CONTEXT, D, X, sigmoid
from tests.weights import boxed

Z = 3
CONFIGS = {
    **{kind: S4Config(D, Z, kind, low=0.05, chunk_size=3) for kind in ("legs", "lin", "inv")},
    "h3": H3Config(6, Z, W=3, chunk_size=3),
}
ALL = pytest.mark.parametrize("c", CONFIGS.values(), ids=CONFIGS)


def both(p, name):
    return p[f"{name}_real"] + 1j * p[f"{name}_imag"]


def states(p, x_TF, legs):
    """The state space of each channel, with matrices of both of each pair of conjugates."""
    a, y = -np.exp(p["log_a_real"]) + 1j * p["a_imag"], np.zeros(x_TF.shape)
    full = lambda x: np.concatenate([x, x.conj()])
    for f, dt in enumerate(np.exp(p["log_dt"])):
        c, one, h = full(both(p, "c")[f]), np.eye(2 * Z), np.zeros(2 * Z, complex)
        if legs:
            rank1 = full(both(p, "p")[f])
            half = dt / 2 * (np.diag(full(a[f])) - np.outer(rank1, rank1.conj()))
            step, write = (np.linalg.solve(one - half, m) for m in (one + half, dt * full(both(p, "b")[f])))
        else:
            step, write = np.diag(np.exp(dt * full(a[f]))), (np.exp(dt * full(a[f])) - 1) / full(a[f])
        for t in range(len(x_TF)):
            h = step @ h + write * x_TF[t, f]
            y[t, f] = (c @ h).real + p["skip"][f] * x_TF[t, f]
    return y


def slow(c, p, x_TD):
    p = jax.tree.map(mixers.written, p)
    if isinstance(c, H3Config):
        q, k, v = (x_TD @ p[name] for name in "qkv")
        k = np.array([sum(p["shift"][c.W - 1 - w] * k[t - w] for w in range(c.W) if t >= w) for t in range(len(k))])
        return (q * states(p, k * v, False)) @ p["o"]
    u = np.asarray(jax.nn.gelu(states(p, x_TD, c.kind == "legs"), approximate=False))
    return (u @ p["o"]) * sigmoid(u @ p["o_gate"])


@ALL
def test_it_is_its_equations(c):
    p = mixers.perturbed(c)
    y, _ = jax.jit(lambda p: c.build(3, "mixer").apply({"params": p}, X, CONTEXT))(p)
    for row, start in enumerate(mixers.START):
        np.testing.assert_allclose(y[row, start:], slow(c, p, X[row, start:]), atol=2e-5)


@ALL
def test_a_past_is_as_good_as_the_whole_text(c):
    mixers.a_past_is_the_whole_text(c, 3)


@ALL
def test_the_state_has_one_size(c):
    mixers.the_state_has_one_size(c)


def test_the_scan_that_training_does_not_need_is_not_computed():
    c = CONFIGS["legs"]
    c, p = dataclasses.replace(c, chunk_size=2), mixers.initial(c)
    x, context = X[:3], Context(mixers.POSITIONS[:3], mixers.SEGMENTS[:3])
    both = lambda p, x: c.build(3, "mixer").apply({"params": p}, x, context)
    loss = lambda p, x: both(p, x)[0].sum()
    texts = [jax.jit(f).lower(p, x).compile().as_text() or "" for f in (jax.grad(loss), both)]
    size = f"c64[{len(x)},{len(p['skip'])},{Z}]"  # a state
    assert size not in texts[0] and size in texts[1]


def test_names_and_axes_of_the_weights():
    channel = dict.fromkeys(("c_real", "c_imag", "log_a_real", "a_imag"), Axes(("mlp", None)))
    channel |= dict.fromkeys(("log_dt", "skip"), Axes(("mlp",)))
    product = Axes(("mlp", "embed"), (0,))
    axes = lambda kind: sharding.axes_of(boxed(CONFIGS[kind].build(3, "mixer"), X, CONTEXT))
    assert axes("lin") == axes("inv") == {**channel, "o": product, "o_gate": product}
    more = dict.fromkeys(("p_real", "p_imag", "b_real", "b_imag"), Axes(("mlp", None)))
    assert axes("legs") == {**channel, **more, "o": product, "o_gate": product}
    into = dict.fromkeys("qkv", Axes(("embed", "mlp"), (0,)))
    assert axes("h3") == {**channel, **into, "shift": Axes((None, "mlp")), "o": product}


def test_how_the_states_begin():
    for kind, rates in (("legs", hippo_legs(Z)[0]), ("lin", s4d_rates(Z, "lin")), ("inv", s4d_rates(Z, "inv"))):
        p = mixers.initial(CONFIGS[kind])
        a = -np.exp(p["log_a_real"]) + 1j * p["a_imag"]
        np.testing.assert_allclose(a, np.tile(rates, (D, 1)), rtol=1e-6)
        assert (np.exp(p["log_dt"]) >= 0.05).all() and (np.exp(p["log_dt"]) <= 0.1).all()


def test_what_makes_no_sense():
    with pytest.raises(UserError, match=r"unknown kind of state space 'leg'.*legs"):
        S4Config(8, kind="leg")


# Language models of them ---------------------------------------------------------------------------------------------

FFN = MLPConfig(24)
MODELS = {
    "legs": mixers.model(BlockConfig(S4Config(16, 4, chunk_size=8), FFN)),
    "lin": mixers.model(BlockConfig(S4Config(16, 4, "lin", chunk_size=8), FFN)),
    "h3": mixers.model(BlockConfig(H3Config(16, 4, W=4, chunk_size=8), FFN)),
}
EACH = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


@EACH
def test_generating_is_the_full_forward(model):
    mixers.generating_is_the_full_forward(model)


@pytest.mark.parametrize(
    "model, mesh",
    [
        ("legs", MeshConfig(data=1, fsdp=2, tensor=4)),
        ("h3", MeshConfig(data=2, context=2, tensor=2)),
        ("lin", MeshConfig(2, 2, 2, explicit=False)),
    ],
    ids=lambda x: x if isinstance(x, str) else name(x),
)
def test_a_mesh_changes_no_number(model, mesh):
    mixers.a_mesh_changes_no_number(MODELS[model], mesh)


def test_it_learns():
    mixers.it_learns(MODELS["legs"])
