"""What a step takes, without compiling it: its jaxpr is walked for one device of a mesh that need not exist.

Two rules stand for the compiler: `plan.implied` for what is sent and `plan.fusion` for what is in memory. A loop of
unknown length is counted once, so the decoding loop is one token.
"""

import dataclasses
import time
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr
from jax.interpreters import partial_eval
from jax.sharding import AbstractMesh, AxisType

from jaxlm import compat, sharding
from jaxlm.decode.abstract import abstract_decoding, trace_decoding
from jaxlm.models import flops
from jaxlm.models.lm import LMConfig
from jaxlm.plan import fusion, graph, liveness, reader, tiles
from jaxlm.plan.facts import Buffer, Collective, Memory, Program, Work
from jaxlm.plan.kernels import cudnn_assumed
from jaxlm.plan.memory import of_decoding
from jaxlm.plan.topology import Topology
from jaxlm.run import RunConfig
from jaxlm.sharding import MeshConfig
from jaxlm.train.memory import bytes_per_device
from jaxlm.train.setup import Setup

SHOWN = 16  # of the largest arrays


def abstract_mesh(topology: Topology, config: MeshConfig = MeshConfig()) -> AbstractMesh:
    """The mesh of `config` over a topology, without its devices. Raises UserError when they do not match."""
    sizes = sharding.mesh_shape(config, topology.devices)
    platform = "cpu" if topology.chip is None else "tpu" if topology.tpu else "gpu"
    kind = platform if topology.chip is None else topology.chip.kinds[0]
    device = compat.abstract_device(kind, platform)
    types = (AxisType.Explicit,) * len(sizes)
    return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=types, abstract_device=device)


def estimate_train(run: RunConfig, topology: Topology, mesh: MeshConfig | None = None) -> Program:
    """The training step of `run` on its own or another mesh. A second or two."""
    start = time.perf_counter()
    where = abstract_mesh(topology, mesh or run.mesh)
    setup = Setup(run, where)
    state, batch, frozen = setup.state, setup.batch, setup.frozen
    with sharding.use(where), cudnn_assumed():
        traced = jax.jit(setup.train_step).trace(state, batch, frozen)
    params, moments, ema = map(bytes_per_device, ((state.params, frozen), state.opt_state, state.ema))
    rest = bytes_per_device((batch, state.step, state.key))
    given = Memory(params, moments, 0, ema=ema, other=rest)
    model = run.batch * run.objective.flops(run.model, run.data) / topology.devices
    return _program(traced.jaxpr, len(jax.tree.leaves(state)), given, model, topology, where, start)


def estimate_decode(config: LMConfig, topology: Topology, mesh: MeshConfig, rows: int, length: int) -> Program:
    """The step that gives each of `rows` texts of `length` tokens one more."""
    start = time.perf_counter()
    where = abstract_mesh(topology, mesh)
    with cudnn_assumed():
        params, state = abstract_decoding(config, where, rows, length, stacked=True)
        traced = trace_decoding(config, where, params, state, stacked=True)
    given = of_decoding(params, state)
    # The last of `length` tokens costs what a text costs more than one without it.
    whole, before = (T * flops.train_flops(config, T) / 3 for T in (length, max(length - 1, 1)))
    last = whole - before if length > 1 else whole
    donated = len(jax.tree.leaves(params)), len(jax.tree.leaves((params, state)))
    return _program(traced.jaxpr, donated, given, rows * last / topology.devices, topology, where, start)


def _program(closed: Any, donated: Any, given: Memory, model: float, topology: Topology, mesh: Any, start: float):
    compiler = fusion.COMPILERS[compat.device_platform(mesh.abstract_device)]
    block = reader.read(pruned(closed), mesh)
    if compiler.hoists:
        fusion.hoist(block)
    if compiler.tiles:
        tiles.tile(block)
        tiles.sum_whole(block)
    work = Work(model, tuple(liveness.passes(block, compiler)))
    if compiler.tiles:
        tiles.turn_weights(block)  # once for all tokens, and so no part of the work for one
    first, end = (0, donated) if isinstance(donated, int) else donated
    free = {id(v) for v in block.ins[first:end]}
    most, there = liveness.height(block, compiler, free)
    held = sum(v.nbytes for v in block.ins)
    host = sum(v.size for v in block.ins if v.host)
    host += sum(v.size for op, _ in graph.walk(block) if op.kind == "loop" for v in op.outs if v.host)
    memory = dataclasses.replace(given, activations=most, peak=held + most, host=host)
    across = sharding.across(dict(mesh.shape), topology.slices) if topology.slices > 1 else None
    limit = topology.chip.usable if topology.chip else None
    largest = tuple(Buffer(v.nbytes, str(v), "") for v in sorted(there, key=lambda v: -v.nbytes)[:SHOWN])
    sends = collectives(block, across)
    return Program(memory, work, sends, time.perf_counter() - start, False, limit, largest, 0)


def pruned(closed: Any) -> ClosedJaxpr:
    """Without what nothing reads."""
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)
    return ClosedJaxpr(jaxpr, closed.consts)


def collectives(block: graph.Block, across: str | None = None) -> tuple[Collective, ...]:
    """All collectives, equal ones together; `across` is the axis that lies across slices."""
    found: dict[Any, Collective] = {}
    for op, times in graph.walk(block):
        if (sent := op.sent) is not None:
            key = sent.kind, sent.axes, str(sent.whole), op.part
            old = found.get(key)
            one = Collective(
                sent.kind,
                sent.whole.size,
                times + (old.times if old else 0),
                op.part,
                sent.axes,
                sent.size,
                across in sent.axes,
                str(sent.whole),
                op.path.strip("/"),
            )
            found[key] = one
    return tuple(found.values())
