"""What the architecture promises about the cost of programs, read from compiled ones. Nothing large is run."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from jaxlm import compat, models, sharding
from jaxlm.losses import cross_entropy, token_logprobs
from jaxlm.models import LM, EncoderConfig, LMConfig
from jaxlm.nn import (
    AttentionConfig,
    BigBirdConfig,
    BlockConfig,
    DifferentialConfig,
    LayerNormConfig,
    LayersConfig,
    LongformerConfig,
    MLPConfig,
    MoEConfig,
)
from jaxlm.ops import dispatch
from jaxlm.sharding import MeshConfig, make_mesh
from jaxlm.train.setup import Setup
from tests import tiny
from tests.meshes import on

BLOCK = BlockConfig(AttentionConfig(H=2, K=16), MLPConfig(F=64))
NUMBERED = BlockConfig(DifferentialConfig(H=2, K=16, scale_by_layer=True), MLPConfig(F=64))  # of its layer


def model(layers: int, block: BlockConfig = BLOCK) -> LMConfig:
    return LMConfig(V=64, D=32, layers=(LayersConfig((block,), layers),), remat="attention")


@functools.cache
def training(config: LMConfig, B: int, T: int, mesh: MeshConfig | None = None) -> jax.stages.Compiled:
    """The gradient of the loss of B rows of T tokens, compiled; for one of a mesh's devices."""

    def loss(params, tokens):
        out = LM(config).apply({"params": params}, tokens, method="forward")
        return cross_entropy(out.hidden_BTD, out.head_VD, tokens, jnp.ones(tokens.shape)).total

    params, axes = models.abstract(config)
    tokens = jax.ShapeDtypeStruct((B, T), jnp.int32)
    with on(mesh):
        if mesh is not None:
            devices = compat.concrete_mesh()
            params = jax.tree.map(_placed, params, sharding.shardings(axes, params, devices))
            tokens = _placed(tokens, NamedSharding(devices, sharding.spec("batch", None)))
        return jax.jit(jax.grad(loss)).lower(params, tokens).compile()


def _placed(x: jax.ShapeDtypeStruct, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)


def instructions(compiled: jax.stages.Compiled) -> int:
    return len(re.findall(r"^\s+(?:ROOT )?%?\S+ = ", compiled.as_text(), re.MULTILINE))


def largest(compiled: jax.stages.Compiled) -> int:
    """Elements of the largest array in the program."""
    shapes = re.findall(r"\b(?:f|bf|s|u|pred)\d*\[([\d,]+)\]", compiled.as_text())
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


def temporary(compiled: jax.stages.Compiled) -> int:
    """Bytes of everything that is neither argument nor result."""
    return compiled.memory_analysis().temp_size_in_bytes


def products(compiled: jax.stages.Compiled, trips: int | None = None) -> int:
    """Floating-point operations of all matrix products in the program, those in loops as often as the loop runs, which
    is `trips` where the program does not say."""
    text = compiled.as_text()
    assert not re.search(r"ragged-dot|convolution\(|conditional\(", text)  # which are not counted here
    bodies = {m[2]: m[0] for m in re.finditer(r"^(ENTRY )?%(\S+) .*?^}", text, re.MULTILINE | re.DOTALL)}
    entry = re.search(r"^ENTRY %(\S+) ", text, re.MULTILINE)
    assert entry

    @functools.cache
    def cost(name: str) -> int:
        total, body = 0, bodies[name]
        shapes = dict(re.findall(r"^\s+(?:ROOT )?%(\S+) = \w+\[([\d,]*)\]", body, re.MULTILINE))
        size = lambda name: [int(n) for n in shapes[name].split(",") if n]
        for line in body.splitlines()[1:]:
            if found := re.match(r"\s+(?:ROOT )?%(\S+) = .* dot\(%([^,)]+),.*lhs_contracting_dims={([\d,]*)}", line):
                inner = math.prod(size(found[2])[int(i)] for i in found[3].split(","))
                total += 2 * math.prod(size(found[1])) * inner
            known = re.search(r'"known_trip_count":{"n":"(\d+)"}', line)
            for kind, called in re.findall(r"(calls|to_apply|body)=%([^\s,)]+)", line):
                times = 1 if kind != "body" else int(known[1]) if known else trips
                assert times is not None, line
                total += cost(called) * times
        return total

    return cost(entry[1])


@pytest.mark.parametrize("block, T", [(BLOCK, 1024), (NUMBERED, 128)], ids=["plain", "numbered"])
def test_compile_cost_is_flat_in_depth(block, T):
    few, many = (instructions(training(model(layers, block), 1, T)) for layers in (6, 48))
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


LONG = {
    "longformer": LongformerConfig(H=2, K=16, reach=64),
    "longformer, global": LongformerConfig(H=2, K=16, reach=64),
    "bigbird": BigBirdConfig(H=2, K=16, C=64, random=3),
}


@pytest.mark.parametrize("kind", LONG)
def test_training_memory_of_sparse_encoders_is_linear_in_the_length(kind):
    block = dataclasses.replace(BLOCK, mixer=LONG[kind], norm=None, norm_sum=LayerNormConfig())
    c = EncoderConfig(64, 32, (LayersConfig((block,), 2),), None, remat="attention")

    def compiled(T):
        def loss(params, tokens, at):
            out = models.forward(c.build(), params, tokens, None, None, None, at if "global" in kind else None)
            return cross_entropy(out.hidden_BTD, out.head_VD, tokens, jnp.ones(tokens.shape), bias_V=out.bias_V).total

        ints = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((1, T), (1, 4)))
        return jax.jit(jax.grad(loss)).lower(models.abstract(c)[0], *ints).compile()

    short, long = 1024, 16384
    slope = math.log(temporary(compiled(long)) / temporary(compiled(short))) / math.log(long / short)
    assert slope <= 1.1
    assert largest(compiled(long)) < long * long / 8  # no T x T, of no head


LOSSES = [lambda *args: cross_entropy(*args, jnp.ones((2, 2048))).total, lambda *args: token_logprobs(*args)[0].sum()]


@pytest.mark.parametrize("total", LOSSES, ids=["cross_entropy", "token_logprobs"])
def test_loss_memory_is_flat_in_the_vocabulary(total):
    """One chunk of logits and its gradient, beside the head and its own."""
    D = 1024

    def program(V):
        args = jax.ShapeDtypeStruct((2, 2048, D), "f4"), jax.ShapeDtypeStruct((V, D), "f4")
        return jax.jit(jax.grad(total, (0, 1))).lower(*args, jax.ShapeDtypeStruct((2, 2048), "i4")).compile()

    small, large = 32 * 1024, 256 * 1024
    head_and_gradient = 2 * 4 * D * (large - small)
    assert temporary(program(large)) - temporary(program(small)) <= 1.2 * head_and_gradient
    assert largest(program(large)) == large * D


def test_experts_cost_what_is_active():
    """Four times as many experts, of which a token is given two as before, and hardly more products."""
    B, T, D, layers = 4, 256, 32, 2

    def counted(ffn: MLPConfig) -> int:
        c = LMConfig(V=256, D=D, layers=(LayersConfig((dataclasses.replace(BLOCK, ffn=ffn),), layers),))
        return products(training(c, B, T))

    matmuls = lambda parameters: 6 * B * T * layers * parameters
    dense, wide = counted(MLPConfig(F=256)), counted(MLPConfig(F=512))
    assert wide - dense == matmuls(3 * D * 256)  # the reader of programs reads
    few, many = counted(MoEConfig(F=128, E=8, top_k=2)), counted(MoEConfig(F=128, E=32, top_k=2))
    assert many <= 1.2 * few
    for found, E in ((few, 8), (many, 32)):
        # Beyond the active experts: an eighth of padding, the routers, and the sums over each token's k results.
        assert 0 <= found - dense <= matmuls(3 * D * 256 / 8 + D * E + 2 * D)


def test_experts_cost_what_is_active_where_they_are_divided():
    """With a capacity the same but for the router. Without one as many blocks as an even choice fills: where the loops
    over them end is known when they run."""
    mesh, B, T, D, layers, X, M = MeshConfig(2, expert=4), 8, 256, 32, 2, 4, 256  # M tokens on each device

    def counted(E: int, capacity: float | None) -> int:
        ffn = MoEConfig(F=128, E=E, top_k=2, capacity_factor=capacity)
        c = LMConfig(V=256, D=D, layers=(LayersConfig((dataclasses.replace(BLOCK, ffn=ffn),), layers),))
        choices = jnp.argsort(jax.random.uniform(jax.random.key(0), (X * M, E)))[:, :2]
        used = dispatch.dropless(jnp.minimum(choices, E // X), E // X, E).used  # by the first of X devices
        return products(training(c, B, T, mesh), int(used))

    capped = [counted(E, 1.0) for E in (8, 32)]
    assert capped[1] - capped[0] == 6 * M * layers * D * (32 - 8)
    few, many = counted(8, None), counted(32, None)
    assert many <= 1.2 * few
    # Every block is done again for its gradient, and an eighth of its rows may be empty.
    assert capped[0] <= few <= capped[0] + 2 * M * layers * 2 * 3 * D * 128 * (1 + 4 / 8)


def test_fully_sharded_state_is_an_eighth_a_device():
    run = tiny.run(mesh=MeshConfig(1, 8, 1))
    state = Setup(run, make_mesh(run.mesh)).create()[0]
    weights = sum(x.size for x in jax.tree.leaves(state.params))
    total = sum(x.nbytes for x in jax.tree.leaves(dataclasses.replace(state, key=None)))
    assert total >= 3 * 4 * weights  # and both moments of Adam
    for device in jax.devices():
        shards = [s for x in jax.tree.leaves(state) for s in x.addressable_shards if s.device == device]
        assert sum(np.prod(s.data.shape) * s.data.dtype.itemsize for s in shards) <= 1.05 * total / 8
