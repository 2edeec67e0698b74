"""Loaded onto a mesh, a model computes and writes what it does on one device: one golden of each kind of layer."""

import chex
import numpy as np
import pytest

import jaxlm
from jaxlm.sharding import MeshConfig
from tests.convert import golden
from tests.convert.reference import close
from tests.meshes import MESHES, on

NAMES = ["bloom", "deepseek_v3", "diffllama", "gemma2", "gpt_oss", "llama4"]
CASES = [(name, mesh) for name in NAMES for mesh in MESHES[4:6]]
CASES += [(name, MeshConfig(2, expert=2, tensor=2)) for name in ("deepseek_v3", "gpt_oss", "llama4")]


@pytest.mark.parametrize("name, mesh", CASES, ids=str)
def test_the_same_on_a_mesh(name, mesh, tmp_path):
    e = golden.expected(name)
    with on(mesh):
        lm = jaxlm.load(golden.write(tmp_path, name))
        twice = np.concatenate([e["tokens"]] * 2)  # four devices share the rows
        close(lm.logits(twice), np.concatenate([e["logits"]] * 2))
        out = lm.generate(e["prompts"], e["greedy"].shape[1], mask_BT=e["prompts_mask"])
        np.testing.assert_array_equal(out.tokens, e["greedy"])
        chex.assert_trees_all_equal(lm.to_hf(), golden.weights(e["tensors"], int(e["seed"])))
