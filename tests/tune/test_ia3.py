"""IA3: vectors of ones at first, trained alone, the same on a mesh."""

import dataclasses

import chex
import jax
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.ops.leaves import dense
from jaxlm.sharding import MeshConfig
from jaxlm.trains import join
from jaxlm.tune import IA3
from tests import tiny
from tests.tune.test_lora import MIXED, setup, take

RUN = tiny.run(model=MIXED, trains=IA3(), batch=8)


def test_it_begins_at_the_base_and_scales():
    state, frozen = setup(RUN).create()
    plain, _ = setup(dataclasses.replace(RUN, trains=tiny.run().trains)).create()
    chex.assert_trees_all_equal(dense(join(state.params, frozen)), plain.params)
    shapes = {tuple(x.shape) for x in jax.tree.leaves(state.params)}
    assert shapes == {(2, 1, 2, 8), (2, 64, 1), (2, 8, 16, 1), (1, 1, 2, 8), (1, 64, 1)}
    moved = join(jax.tree.map(lambda x: x * 3, state.params), frozen)["segment_0"]["periods"]["block_0"]
    np.testing.assert_allclose(moved["mixer"]["k"].dense(), 3 * moved["mixer"]["k"].w)


@pytest.mark.parametrize("mesh", [MeshConfig(2, 2, 2)])
def test_the_same_on_a_mesh(mesh):
    alone, sharded = take(RUN), take(RUN, mesh)
    np.testing.assert_allclose(sharded[2]["loss"], alone[2]["loss"], rtol=1e-5)
    chex.assert_trees_all_close(jax.device_get(sharded[0].params), jax.device_get(alone[0].params), atol=1e-3)


def test_what_cannot_be():
    with pytest.raises(UserError, match="the model has no such weights"):
        tiny.run(trains=IA3(of="k_proj", inputs_of=""))
