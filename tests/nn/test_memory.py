"""NTM and DNC as networks: their steps are the formulas, texts do not leak, any mesh gives the same, they train."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.data import SyntheticTask
from jaxlm.errors import UserError
from jaxlm.models import MemoryConfig, abstract, forward
from jaxlm.nn import DNCConfig, MemoryNetwork, NTMConfig
from jaxlm.objectives import Answers
from jaxlm.sharding import make_mesh
from jaxlm.train.setup import Setup
from tests import tiny
from tests.meshes import MESHES, name, on
from tests.weights import weights

UNITS = {"ntm": NTMConfig(M=6, K=4, H=2), "dnc": DNCConfig(M=6, K=4, H=2)}
B, T, D = 4, 8, 8
X = np.random.default_rng(0).normal(size=(B, T, D)).astype(np.float32)


def network(unit):
    module: Any = MemoryNetwork(UNITS[unit], 8)
    return module, weights(module, X)


@pytest.mark.parametrize("unit", UNITS)
def test_the_controller_steers_the_memory(unit):
    c, (module, p) = UNITS[unit], network(unit)
    state, h, cell, sigmoid = c.start(B), np.zeros((B, 8)), np.zeros((B, 8)), jax.nn.sigmoid
    for t in range(3):
        seen = np.concatenate([X[:, t], state["reads"].reshape(B, -1), h], 1)
        i, f, g, o = np.split(seen @ p["lstm"] + p["lstm_bias"].reshape(1, -1), 4, 1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        h, said, first = sigmoid(o) * np.tanh(cell), {}, 0
        for word, shape in c.words.items():
            n = int(np.prod(shape))
            words = h @ p["words"][:, first : first + n] + p["words_bias"][None, first : first + n]
            said[word], first = words.reshape(B, *shape), first + n
        state = c.step(state, said)
    out = np.concatenate([h, state["reads"].reshape(B, -1)], 1) @ p["out"]
    np.testing.assert_allclose(module.apply({"params": p}, X)[:, 2], out, atol=1e-5)


@pytest.mark.parametrize("unit", UNITS)
def test_each_text_begins_with_an_empty_memory(unit):
    module, p = network(unit)
    segments = np.repeat([[1] * 3 + [2] * 5], B, 0)
    apart = [module.apply({"params": p}, X[:, :3]), module.apply({"params": p}, X[:, 3:])]
    np.testing.assert_allclose(module.apply({"params": p}, X, segments), np.concatenate(apart, 1), atol=1e-5)


@pytest.mark.parametrize("unit", UNITS)
def test_weights_of_heads_stay_weights(unit):
    """After many steps of large words: finite, not negative, of a sum of at most one."""
    c, rng = UNITS[unit], np.random.default_rng(1)
    state = c.start(B)
    for _ in range(20):
        state = c.step(state, {n: jnp.asarray(30 * rng.normal(size=(B, *s)), jnp.float32) for n, s in c.words.items()})
    for part in ("weights", "saw", "wrote", "usage"):
        if part in state:
            assert np.isfinite(state[part]).all() and state[part].min() > -1e-5 and state[part].max() < 1 + 1e-4
            assert part == "usage" or state[part].sum(-1).max() < 1 + 1e-4


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("shape", [MESHES[2], MESHES[4], MESHES[5]], ids=name)
def test_any_mesh_gives_the_same(unit, shape):
    config = MemoryConfig(V=16, D=D, Z=8, memory=UNITS[unit])
    tokens = np.random.default_rng(0).integers(0, 16, (8, 8))
    params = weights(config.build(), tokens, method="forward")
    hidden = lambda params, tokens: forward(config.build(), params, tokens).hidden_BTD
    expected = jax.jit(hidden)(params, tokens)
    with on(shape) as put:
        params = jax.tree.map(lambda x, axes: put(x, *axes.names), params, abstract(config)[1])
        found = jax.jit(hidden)(params, put(tokens, "batch", None))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("unit", UNITS)
def test_a_run_of_it_learns(unit):
    data = SyntheticTask("copy", lengths=(3, 5), test_lengths=(5, 5), T=4)
    model = MemoryConfig(V=data.vocabulary, D=16, Z=16, memory=UNITS[unit])
    run = tiny.run(model=model, data=data, objective=Answers(), batch=16, steps=60)
    setup = Setup(run, make_mesh(devices=jax.devices()[:1]))
    state, step, losses = setup.begin(jax.random.key(0))[0], jax.jit(setup.train_step), []
    for i in range(60):
        rows = [data.row(0, 16 * i + j) for j in range(16)]
        state, metrics = step(state, {name: np.stack([row[name] for row in rows])[None] for name in rows[0]})
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])


@pytest.mark.parametrize("wrong, line", [({"W": 2}, "W=2 must be odd"), ({"M": 1}, "M=1 must be at least 2")])
def test_what_cannot_be(wrong, line):
    with pytest.raises(UserError, match=line):
        NTMConfig(**wrong)
