"""What a run carries, and where it lies."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train import state as states
from jaxlm.train.setup import Setup
from tests import tiny


def plain(tree):
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.tree.map(lambda x: np.asarray(jax.random.key_data(x) if is_key(x) else x), tree)


def test_created_as_described():
    run, mesh = tiny.run(ema=0.9), make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    state, described = Setup(run, mesh).create()[0], Setup(run, mesh).state
    chex.assert_trees_all_equal_shapes_and_dtypes(state, described)
    jax.tree.map(lambda x, y: chex.assert_equal(x.sharding, y.sharding), state, described)


def test_moments_lie_as_their_weights():
    run, mesh = tiny.run(), make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    state = Setup(run, mesh).state
    where = jax.tree.map(lambda x: x.sharding, state.params)
    moments = [s for s in jax.tree.leaves(state.opt_state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")]
    assert len(moments) == 1
    for moment in (moments[0].mu, moments[0].nu):
        chex.assert_trees_all_equal(jax.tree.map(lambda x: x.sharding, moment), where)
    assert any(not x.is_fully_replicated for x in jax.tree.leaves(where))


def test_the_same_weights_on_every_mesh():
    run = tiny.run(ema=0.9, seed=3)
    meshes = [make_mesh(MeshConfig(data=1), jax.devices()[:1]), make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))]
    chex.assert_trees_all_equal(*[plain(Setup(run, mesh).create()[0]) for mesh in meshes])


def test_the_average_starts_as_the_weights_and_is_used_to_evaluate():
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    state = Setup(tiny.run(ema=0.9), mesh).create()[0]
    assert state.eval_params is state.ema
    chex.assert_trees_all_equal(state.params, state.ema)
    pointers = [{x.unsafe_buffer_pointer() for x in jax.tree.leaves(t)} for t in (state.params, state.ema)]
    assert not pointers[0] & pointers[1]  # both are donated
    without = Setup(tiny.run(), mesh).create()[0]
    assert without.ema is None and without.eval_params is without.params


def test_a_mesh_that_does_not_divide_the_weights():
    mesh = make_mesh(MeshConfig(data=1, fsdp=1, tensor=8))
    with pytest.raises(UserError, match=r"mesh tensor=8 does not divide the 'heads' axis of .* which has size [24]"):
        _ = Setup(tiny.run(), mesh).state


def test_one_number_that_is_not_finite_is_seen_wherever_it_is():
    """A checkpoint with it would take the place of a good one."""
    state = Setup(tiny.run(ema=0.9), make_mesh(MeshConfig(data=1), jax.devices()[:1])).create()[0]
    assert states.finite(state)
    for part in ("params", "ema", "opt_state"):
        leaves, shape = jax.tree.flatten(getattr(state, part))
        at = max(i for i, x in enumerate(leaves) if x.ndim)
        leaves[at] = leaves[at].at[(-1,) * leaves[at].ndim].set(jnp.nan)
        assert not states.finite(state.replace(**{part: jax.tree.unflatten(shape, leaves)}))
