"""Training of what will be rounded: gradients pass, and what is exported computes the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.models import abstract, forward
from jaxlm.ops.leaves import Grouped, Int8
from jaxlm.ops.straight_through import lsq, straight_through
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train.setup import Setup
from jaxlm.trains import join
from jaxlm.tune import QAT, quantize
from tests import tiny
from tests.tune.test_methods import BATCHES, MODEL, PARAMS, block

RNG = np.random.default_rng(0)


def test_straight_through_is_rounded_and_has_the_gradient_of_what_was_not():
    x = jnp.asarray(RNG.normal(size=8), jnp.float32)
    f = lambda x: jnp.sum(straight_through(jnp.round(x), x) ** 2)
    np.testing.assert_allclose(f(x), jnp.sum(jnp.round(x) ** 2), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(f)(x), 2 * jnp.round(x), rtol=1e-6)


def test_steps_have_the_gradients_of_the_paper():
    w, s = RNG.normal(size=(6, 3)).astype(np.float32), np.array([[0.3, 0.1, 0.05]], np.float32)
    found = lsq(jnp.asarray(w), jnp.asarray(s), 7)
    np.testing.assert_allclose(found, np.clip(np.round(w / s), -8, 7) * s, rtol=1e-5)
    c = RNG.normal(size=w.shape).astype(np.float32)
    dw, ds = jax.grad(lambda w, s: jnp.sum(lsq(w, s, 7) * c), (0, 1))(w, s)
    v = w / s
    inside = (v > -8) & (v < 7)
    np.testing.assert_allclose(dw, c * inside, rtol=1e-5)
    by_step = np.where(inside, np.round(v) - v, np.clip(v, -8, 7))
    np.testing.assert_allclose(ds[0], (c * by_step).sum(0) / np.sqrt(6 * 7), rtol=1e-4)


@pytest.mark.parametrize("trains", [QAT("int4", 8, learned=True), QAT("bitnet")])
def test_it_learns_and_exports_what_it_computes(trains):
    run = tiny.run(model=MODEL, trains=trains)
    setup = Setup(run, make_mesh(MeshConfig(data=1), jax.devices()[:1]))
    with jax.set_mesh(setup.mesh):
        state, frozen = setup.create(PARAMS)
        assert not jax.tree.leaves(frozen)
        step, losses = jax.jit(setup.train_step), []
        batch = tiny.place(tiny.batch(4), setup.mesh, 1)
        for _ in range(6):
            state, metrics = step(state, batch, frozen)
            losses.append(float(metrics["loss"]))
        assert losses[-1] < losses[0] - 0.1
        trained = join(state.params, frozen)
        real = jax.jit(lambda params: quantize(MODEL, params, trains.kind))(trained)
        kinds = Int8 if trains.kind in ("int8", "w8a8") else Grouped
        assert isinstance(block(real)["ffn"]["down"], kinds)
        out = lambda params: forward(MODEL.build(), params, BATCHES[0]).hidden_BTD
        np.testing.assert_allclose(out(real), out(trained), atol=2e-2 if trains.kind in ("w8a8", "bitnet") else 1e-4)
        assert np.abs(out(real) - out(jax.tree.map(jnp.asarray, PARAMS))).max() > 0.05


def test_axes_are_like_the_parameters():
    shapes, axes = abstract(MODEL)
    trains = QAT("int4", learned=True)
    made = jax.eval_shape(lambda params: trains.dress(params, axes, jax.random.key(0)), shapes)
    said = trains.dress_axes(axes)
    for a, b in zip(jax.tree.leaves(made), jax.tree.leaves(said, is_leaf=lambda x: hasattr(x, "names"))):
        assert len(a.shape) == len(b.names)


def test_what_cannot_be():
    with pytest.raises(UserError, match="unknown kind of quantisation 'int3'"):
        QAT("int3")
    with pytest.raises(UserError, match="steps are learned of int8, w8a8, int4, not of nf4"):
        QAT("nf4", learned=True)
    with pytest.raises(UserError, match=r"group=8 is of int4, nf4, ternary, bitnet: int8 has a scale for each output"):
        QAT("int8", group=8)
    with pytest.raises(UserError, match=r"ffn\.down has 64 inputs: groups of 24 do not divide"):
        QAT("int4", group=24).dress(PARAMS, abstract(MODEL)[1], jax.random.key(0))
