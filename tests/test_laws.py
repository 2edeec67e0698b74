"""What the architecture promises about the cost of programs, read from compiled ones. Nothing large is run."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from jaxlm.losses import cross_entropy
from jaxlm.models import LM, LMConfig, lm
from jaxlm.nn import AttentionConfig, BlockConfig, MLPConfig, SegmentConfig
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train import state as states
from tests import tiny

BLOCK = BlockConfig(AttentionConfig(H=2, K=16), MLPConfig(F=64))


def model(layers: int) -> LMConfig:
    return LMConfig(V=64, D=32, segments=(SegmentConfig((BLOCK,), layers),), remat="attention")


@functools.cache
def training(config: LMConfig, B: int, T: int) -> jax.stages.Compiled:
    """The gradient of the loss of B rows of T tokens, compiled."""

    def loss(params, tokens):
        out = LM(config).apply({"params": params}, tokens, method="forward")
        return cross_entropy(out.hidden_BTD, out.head_VD, tokens, jnp.ones(tokens.shape)).total

    tokens = jax.ShapeDtypeStruct((B, T), jnp.int32)
    return jax.jit(jax.grad(loss)).lower(lm.abstract(config)[0], tokens).compile()


def instructions(compiled: jax.stages.Compiled) -> int:
    return len(re.findall(r"^\s+(?:ROOT )?%?\S+ = ", compiled.as_text(), re.MULTILINE))


def largest(compiled: jax.stages.Compiled) -> int:
    """Elements of the largest array in the program."""
    shapes = re.findall(r"\b(?:f|bf|s|u|pred)\d*\[([\d,]+)\]", compiled.as_text())
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


def temporary(compiled: jax.stages.Compiled) -> int:
    """Bytes of everything that is neither argument nor result."""
    return compiled.memory_analysis().temp_size_in_bytes


def test_compile_cost_is_flat_in_depth():
    few, many = (instructions(training(model(layers), 1, 1024)) for layers in (6, 48))
    assert few > 500
    assert many <= 1.05 * few


def test_training_memory_is_linear_in_the_length():
    short, long = 1024, 16384
    slope = math.log(temporary(training(model(6), 1, long)) / temporary(training(model(6), 1, short)))
    assert slope / math.log(long / short) <= 1.1
    # The same tokens as many short rows need no less than half of it.
    assert temporary(training(model(6), 1, long)) <= 2 * temporary(training(model(6), long // short, short))
    # A chunk of 128 queries of each head meets all keys, nothing more: no T x T, nor T x T over all chunks and bands.
    assert largest(training(model(6), 1, long)) <= BLOCK.mixer.H * 128 * long


def test_loss_memory_is_flat_in_the_vocabulary():
    """One chunk of logits and its gradient, beside the head and its own."""
    D = 1024

    def program(V):
        def loss(hidden, head, labels):
            return cross_entropy(hidden, head, labels, jnp.ones(labels.shape)).total

        args = jax.ShapeDtypeStruct((2, 2048, D), "f4"), jax.ShapeDtypeStruct((V, D), "f4")
        return jax.jit(jax.grad(loss, (0, 1))).lower(*args, jax.ShapeDtypeStruct((2, 2048), "i4")).compile()

    small, large = 32 * 1024, 256 * 1024
    head_and_gradient = 2 * 4 * D * (large - small)
    assert temporary(program(large)) - temporary(program(small)) <= 1.2 * head_and_gradient
    assert largest(program(large)) == large * D


def test_fully_sharded_state_is_an_eighth_a_device():
    run = tiny.run(mesh=MeshConfig(1, 8, 1))
    state = states.create(run, make_mesh(run.mesh))
    weights = sum(x.size for x in jax.tree.leaves(state.params))
    total = sum(x.nbytes for x in jax.tree.leaves(dataclasses.replace(state, key=None)))
    assert total >= 3 * 4 * weights  # and both moments of Adam
    for device in jax.devices():
        shards = [s for x in jax.tree.leaves(state) for s in x.addressable_shards if s.device == device]
        assert sum(np.prod(s.data.shape) * s.data.dtype.itemsize for s in shards) <= 1.05 * total / 8
