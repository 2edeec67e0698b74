"""Which parameters are trained: split, joined, chosen by their paths."""

import chex
import jax
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.models import abstract
from jaxlm.trains import All, Only, join
from tests import tiny

SHAPES, AXES = abstract(tiny.model())


def test_a_split_is_undone():
    tree = jax.tree.map(lambda x: np.ones(x.shape), SHAPES)
    for trains in (All(), Only("mixer"), Only("norm|embed", frozen=True)):
        chex.assert_trees_all_equal(join(*trains.split(tree)), tree)
    assert not jax.tree.leaves(All().split(tree)[1])
    assert join(tree, None) is tree


def test_paths_choose():
    trained, frozen = Only(r"mixer\.[qv]$").split(SHAPES)
    assert len(jax.tree.leaves(trained)) == 2 and len(jax.tree.leaves(trained) + jax.tree.leaves(frozen)) == len(
        jax.tree.leaves(SHAPES)
    )
    layer = trained["segment_0"]["periods"]["block_0"]
    assert layer["mixer"]["q"] is not None and layer["mixer"]["k"] is None and layer["ffn"]["up"] is None
    kept, _ = Only(r"mixer\.[qv]$", frozen=True).split(SHAPES)
    assert len(jax.tree.leaves(kept)) == len(jax.tree.leaves(frozen))


def test_what_cannot_be():
    with pytest.raises(
        UserError, match=r"trains=Only\(of='lstm', frozen=False\): the model has no such weights, it has "
    ):
        tiny.run(trains=Only("lstm"))
    with pytest.raises(UserError, match=r"'\(' is no regular expression"):
        Only("(")
    assert AXES
