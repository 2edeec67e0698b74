"""Decoding as shapes is decoding."""

import jax
import numpy as np
import pytest

from jaxlm.decode import Greedy, prefill
from jaxlm.decode.abstract import abstract_decoding, lower_decoding
from jaxlm.errors import UserError
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train.setup import Setup
from tests import tiny


def test_shapes_lie_as_the_arrays_do():
    run = tiny.run(mesh=MeshConfig(data=4, tensor=2))
    mesh = make_mesh(run.mesh)
    params, state = abstract_decoding(run.model, mesh, 4, 128)
    with jax.set_mesh(mesh):
        real, _ = prefill(
            run.model, Setup(run, mesh).create()[0].params, np.ones((4, 64), np.int32), None, 64, Greedy(), None, ()
        )
    assert (state.prompt_BT.shape, state.prompt_BT.dtype) == (real.prompt_BT.shape, real.prompt_BT.dtype)
    held = zip(jax.tree.leaves(state.caches), jax.tree.leaves(unstacked(real.caches)), strict=True)
    for shape, array in held:
        assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
        assert shape.sharding.shard_shape(shape.shape) == (1, 1, 128, 8)
    assert lower_decoding(run.model, mesh, params, state).as_text().count("stablehlo.while") >= 1


def unstacked(caches):
    """One layer of stacked caches, for each layer: decoding has them so."""
    return [[jax.tree.map(lambda x, i=i: x[i], group) for i in range(2)] for group in caches]


def test_rows_that_the_mesh_does_not_divide():
    run = tiny.run(mesh=MeshConfig(data=8))
    with pytest.raises(UserError, match="choose a multiple of 8, not 4"):
        abstract_decoding(run.model, make_mesh(run.mesh), 4, 128)
