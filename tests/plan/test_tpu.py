"""The same for TPUs that are not there, by their own compiler."""

import dataclasses
import functools
import importlib.util
import subprocess
import sys

import jax
import pytest

from jaxlm import models
from jaxlm.config import resolve
from jaxlm.decode import cache
from jaxlm.errors import UserError
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig
from jaxlm.plan import topology as topologies
from jaxlm.plan.facts import Program
from jaxlm.plan.program import decode_program, environment, train_program
from jaxlm.plan.unexpected_collectives import unexpected_collectives
from jaxlm.plan.walk import estimate_train
from jaxlm.run import RunConfig
from jaxlm.sharding import MeshConfig
from tests import tiny

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu, the TPU's compiler"),
]


def run(mesh: MeshConfig, layers: int = 2, batch: int = 16) -> RunConfig:
    block = BlockConfig(AttentionConfig(H=4, K=32), MLPConfig(F=256))
    model = LMConfig(V=512, D=128, layers=(LayersConfig((block,), layers),), tied=False, dtype="bfloat16")
    config = tiny.run(model=dataclasses.replace(model, remat="full"), batch=batch, mesh=mesh)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, T=128))


@functools.cache
def compiled(config: RunConfig, topology: str) -> Program:
    return train_program(config, topology)


@pytest.mark.parametrize(
    "topology, mesh",
    [
        ("v5e:2x4", MeshConfig(data=1, fsdp=4, tensor=2)),
        ("v5p:2x2x2", MeshConfig(data=2, fsdp=4)),
        ("2xv5e:2x2", MeshConfig(data=2, fsdp=4)),
    ],
)
def test_a_step_is_compiled_and_has_no_unexpected_collective(topology, mesh):
    config = run(mesh)
    program = compiled(config, topology)
    assert program.compiled and program.fits and program.limit > 10 * 2**30
    assert unexpected_collectives(program, config) == []
    assert program.memory.total >= program.memory.params + program.memory.optimizer > 0
    forward = [c for c in program.collectives if c.kind == "all-gather" and "fsdp" in c.axes and c.part == "layers"]
    assert sum(c.times for c in forward) >= 7 * 2  # the matrices of two layers
    assert all(c.slow == ("data" in c.axes) for c in program.collectives if topology.startswith("2x"))
    assert any(c.slow for c in program.collectives) == topology.startswith("2x")
    assert program.largest[0].nbytes > 0 and any("segment_0" in buffer.op for buffer in program.largest)


def larger(
    mesh: MeshConfig, V: int = 4096, D: int = 1024, batch: int = 256, windows: tuple[int | None, ...] = (None,)
) -> RunConfig:
    """Arrays that are too large for the vector memory, where those of tiny models stay."""
    config = run(mesh, batch=batch)
    blocks = tuple(BlockConfig(AttentionConfig(H=D // 128, K=128, window=w), MLPConfig(F=4 * D)) for w in windows)
    layers = (LayersConfig(blocks, 8 // len(blocks)),)
    model = dataclasses.replace(config.model, V=V, D=D, layers=layers)
    return dataclasses.replace(config, model=model, data=dataclasses.replace(config.data, T=1024))


@pytest.mark.parametrize(
    "config",
    [
        larger(MeshConfig(data=1, fsdp=8), V=131_072, D=512, batch=32),  # nearly all vocabulary, in half tiles
        larger(MeshConfig(data=1, fsdp=4, stage=2)),
        larger(MeshConfig(data=2, fsdp=4), windows=(128, 256, 384, None)),
    ],
    ids=["vocabulary", "stages", "blocks"],
)
def test_memory_is_what_is_estimated_without_it(config):
    found = estimate_train(config, topologies.parse("v5e:2x4")).memory.total
    assert found == pytest.approx(compiled(config, "v5e:2x4").memory.total, rel=0.1)


def test_a_deeper_model_is_no_longer_program():
    mesh = MeshConfig(data=1, fsdp=4, tensor=2)
    few, many = (compiled(run(mesh, layers), "v5e:2x4") for layers in (2, 24))
    assert many.instructions <= 1.05 * few.instructions
    turns = lambda program: max(c.times for c in program.collectives if c.part == "layers")
    assert turns(few) == 2 and turns(many) == 24


@pytest.mark.parametrize("name", ["v5e:1x1", "v5p:1x1x1", "v6e:1x1"])
def test_blocks_of_splash_fit_the_vector_memory(name):
    """The largest of one backward kernel, those of wide heads, and two kernels behind a window."""
    command = [sys.executable, "-m", "tests.plan.splash_compiled", name]
    env = environment(topologies.parse(name))
    child = subprocess.run(command, env=env, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr[-2000:]


def test_what_does_not_fit_says_what_it_needs():
    config = run(MeshConfig(data=1, fsdp=4), batch=2**20)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, remat="none"))
    program = train_program(config, "v5e:2x2")
    assert not program.fits and program.collectives == ()
    assert program.limit == round(15.75 * 2**30) < program.memory.total
    held = program.memory
    assert held.total == held.params + held.optimizer + held.activations + held.other


def test_decoding():
    c = run(MeshConfig()).model
    program = decode_program(c, MeshConfig(data=2, tensor=2), "v5e:2x2", rows=64, length=4096)
    assert program.compiled and program.memory.cache == 2 * 2 * 128 * 2 * 64 * 4096 // 4
    assert {c.axes for c in program.collectives if c.part == "layers"} == {("tensor",)}
    assert program.memory.activations < program.memory.cache / 2  # the cache is not turned round


@pytest.mark.parametrize("decode", [False, True], ids=["train", "decode"])
def test_quickstart_compiles_for_one_chip(decode):
    """What a notebook with a single TPU runs, at the floors of jax and libtpu and at the newest."""
    config = resolve("quickstart")
    c = config.model
    if decode:
        program = decode_program(c, config.mesh, "v5e:1x1", rows=4, length=256)
        assert program.memory.cache == 4 * cache.nbytes(c, 256, c.dtype)
    else:
        program = compiled(config, "v5e:1x1")
        assert program.memory.optimizer > 0
    assert program.compiled and program.fits and program.collectives == () and program.largest
    assert program.limit == round(15.75 * 2**30)
    assert program.memory.params == sum(4 * x.size for x in jax.tree.leaves(models.abstract(c)[0]))


def test_mistakes_in_the_other_process_are_told_here():
    with pytest.raises(UserError, match="the product of the axes must be 8"):
        train_program(run(MeshConfig(data=3)), "v5e:2x4")
