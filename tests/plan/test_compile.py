"""The real steps compiled for fake devices: what they exchange, by layer, and what they hold."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jaxlm import models
from jaxlm.decode import cache
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MoEConfig
from jaxlm.plan import topology as topologies
from jaxlm.plan.compile import compile_decode, compile_train
from jaxlm.plan.facts import Collective, Program
from jaxlm.plan.topology import Topology, parse
from jaxlm.plan.unexpected_collectives import unexpected_collectives
from jaxlm.run import RunConfig
from jaxlm.sharding import MeshConfig
from jaxlm.train.setup import Setup
from tests import tiny

WEIGHTS, ROWS = 7, 16  # matrices of a layer: q, k, v, out, gate, up, down
NODES = Topology("two nodes of four", None, (4,), 2)


def run(*mesh: int) -> RunConfig:
    return tiny.run(model=tiny.model(remat="full", tied=False), batch=ROWS, mesh=MeshConfig(*mesh))


@functools.cache
def compiled(config: RunConfig, topology: Topology) -> Program:
    return compile_train(config, topology, topologies.mesh(topology, config.mesh))


def layers(program: Program, kind: str, *axes: str) -> list[Collective]:
    """Those that every layer makes."""
    found = [c for c in program.collectives if c.part == "layers" and (c.kind, c.axes) == (kind, axes)]
    assert all(c.times == 2 for c in found)  # layers
    return found


def forward(found: list[Collective]) -> list[Collective]:
    return [c for c in found if "transpose" not in c.op]


def of_a_layer() -> int:
    """Bytes of its weights."""
    tree = models.abstract(run(1).model)[0]["segment_0"]
    return sum(4 * x.size for x in jax.tree.leaves(tree)) // 2


def test_data_parallel_sums_every_gradient_once():
    program = compiled(run(8), parse("cpu:8"))
    assert sum(c.nbytes for c in layers(program, "all-reduce", "data")) == of_a_layer()
    assert {c.kind for c in program.collectives} == {"all-reduce"} and {c.axes for c in program.collectives} == {
        ("data",)
    }
    assert unexpected_collectives(program, run(8)) == []


def test_fully_sharded_gathers_a_layer_when_it_needs_it():
    program = compiled(run(1, 8), parse("cpu:8"))
    gathered = layers(program, "all-gather", "fsdp")
    assert len(forward(gathered)) == WEIGHTS
    norms = 2 * 4 * 32
    assert sum(c.nbytes for c in forward(gathered)) == of_a_layer() - norms
    assert sum(c.nbytes for c in layers(program, "all-reduce", "fsdp")) == of_a_layer()
    assert {c.axes for c in program.collectives} == {("fsdp",)}
    assert {c.part for c in program.collectives if c.kind == "all-gather"} == {"layers", "embedding", "loss"}
    assert unexpected_collectives(program, run(1, 8)) == []


def test_a_mixture_over_two_nodes():
    """Only sums over replicas leave a node: of gradients, never of activations."""
    program = compiled(run(2, 2, 2), NODES)
    assert len(forward(layers(program, "all-gather", "fsdp"))) == WEIGHTS
    # Before and after both branches of a block the stream is gathered and summed, which XLA's CPU compiler does not
    # scatter.
    stream = "f32[4,32,32]"
    for kind in ("all-gather", "all-reduce"):
        assert [c.shape for c in forward(layers(program, kind, "tensor"))] == [stream, stream]
    far = [c for c in program.collectives if c.slow]
    assert far and all("data" in c.axes and c.kind == "all-reduce" and c.shape != stream for c in far)
    assert not any("data" in c.axes for c in program.collectives if not c.slow)
    whole = sum(c.nbytes for c in far if c.part == "layers" and c.axes == ("data",))
    assert whole == (of_a_layer() - 2 * 4 * 32) // 4  # of fsdp and tensor
    assert unexpected_collectives(program, run(2, 2, 2)) == []


def test_stages_turn_no_activation_round():
    """Where the mesh is automatic, and a gradient could lie by positions as well as by heads or width."""
    mesh = MeshConfig(data=1, stage=2, fsdp=2, tensor=2)
    config = tiny.run(model=tiny.model(remat="full", tied=False), batch=ROWS, mesh=mesh)
    program = compiled(config, parse("cpu:8"))
    assert "all-to-all" not in {c.kind for c in program.collectives}
    assert "collective-permute" in {c.kind for c in program.collectives if c.axes == ("stage",)}


def test_memory_is_that_of_the_compiled_step():
    config = run(2, 2, 2)
    held = compiled(config, NODES).memory
    mesh = topologies.mesh(NODES, config.mesh)
    with jax.set_mesh(mesh):
        sizes = Setup(config, mesh).lower().compile().memory_analysis()
    assert held.params + held.optimizer + held.other == pytest.approx(sizes.argument_size_in_bytes, rel=0.02)
    assert held.params == pytest.approx(held.optimizer / 2, rel=1e-3)
    assert held.total == pytest.approx(sizes.argument_size_in_bytes + sizes.temp_size_in_bytes, rel=0.02)
    averaged = compiled(dataclasses.replace(config, ema=0.9), NODES).memory
    assert averaged.ema == held.params == averaged.params


def test_decoding():
    """A step reads all weights and the caches, which are divided as the mesh says."""
    c, topology = run(1).model, parse("cpu:8")
    program = compile_decode(c, topology, topologies.mesh(topology, MeshConfig(4, 1, 2)), 8, 128)
    assert program.memory.cache == cache.nbytes(c, 128, "float32") * 8 // 8
    size = sum(4 * x.size for x in jax.tree.leaves(models.abstract(c)[0]))
    assert size / 2 <= program.memory.params <= 0.51 * size
    by_layer = [x for x in program.collectives if x.part == "layers" and x.axes == ("tensor",)]
    assert len([x for x in by_layer if x.kind == "all-reduce"]) == 2 * c.depth
    assert all(np.prod(d) <= 2 * c.D for x in by_layer for d in [(x.nbytes // 4,)])  # two rows, one token each


def test_what_should_not_be_is_named():
    config = run(1, 8)
    c = Collective("all-gather", 2**20, 1, "loss", ("fsdp",), 8)
    shapes = {
        "f32[4,16,264]": "logits of the whole vocabulary",
        "f32[16,32,32]": "activations of the whole batch",
        "f32[2,32,64]": "the weights of all 2 layers at once",
        "f32[2,32,32]": None,  # the stream of two rows
        "f32[32,264]": None,  # the table
        "f32[8,4,264]": None,  # its width divided by eight
        "f32[8,32,32]": None,  # some rows
    }
    for shape, why in shapes.items():
        found = unexpected_collectives(Program(None, None, (dataclasses.replace(c, shape=shape),)), config)
        assert len(found) == (why is not None), (shape, found)
        assert why is None or (why in found[0] and shape in found[0] and "over fsdp" in found[0])
    other = dataclasses.replace(c, kind="all-to-all", shape="f32[8,8]")
    assert "re-sharding" in unexpected_collectives(Program(None, None, (other,)), config)[0]
    assert unexpected_collectives(Program(None, None, (dataclasses.replace(other, axes=("expert",)),)), config) == []
    ring = dataclasses.replace(other, kind="collective-permute", axes=("tensor",), shape="f32[4,16,32]")
    whole = dataclasses.replace(ring, shape="f32[4,32,32]")
    assert unexpected_collectives(Program(None, None, (ring,)), run(2, 2, 2)) == []
    assert "re-sharding" in unexpected_collectives(Program(None, None, (whole,)), run(2, 2, 2))[0]
    small = dataclasses.replace(other, nbytes=100)
    assert unexpected_collectives(Program(None, None, (small, dataclasses.replace(c, shape="f32[7]"))), config) == []


def test_what_is_gathered_in_32_bits():
    """Where products read 16: unexpected, but for a router, which is float32, and for the end of a sum over data."""
    block = BlockConfig(AttentionConfig(H=4, K=8), MoEConfig(F=64, E=8, top_k=2))
    model = tiny.model(layers=(LayersConfig((block,), 2),), dtype="bfloat16")
    config = tiny.run(model=model, batch=ROWS, mesh=MeshConfig(2, 4))
    c = Collective("all-gather", 2**20, 2, "layers", ("fsdp",), 4, shape=f"f32[{model.D},64]")
    told = lambda c: unexpected_collectives(Program(None, None, (c,), compiled=True), config)
    assert "float32, where the products read 16 bits" in told(c)[0]
    assert told(dataclasses.replace(c, shape=f"f32[1,{model.D},8]")) == []
    assert told(dataclasses.replace(c, axes=("data",))) == []
    assert told(dataclasses.replace(c, shape=c.shape.replace("f32", "bf16"))) == []
