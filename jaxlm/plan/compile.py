"""The real training and decoding steps, compiled for a mesh whose devices need not be here, and read."""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxlm import sharding
from jaxlm.decode.abstract import abstract_decoding, lower_decoding
from jaxlm.models import LMConfig, ModelConfig
from jaxlm.plan import memory
from jaxlm.plan.collectives import collectives
from jaxlm.plan.facts import Collective, Memory, Program
from jaxlm.plan.hlo import Module
from jaxlm.plan.topology import Topology, compiles, has_compiler, slice_of
from jaxlm.run import RunConfig
from jaxlm.train.setup import Setup


def compile_train(run: RunConfig, topology: Topology, mesh: Mesh) -> Program:
    """The training step of `run` on `mesh`, the topology's (`topology.mesh`)."""
    setup = Setup(run, mesh)
    return _compile(setup.lower, memory.of_state(setup), run.model, topology, mesh)


def compile_decode(config: LMConfig, topology: Topology, mesh: Mesh, rows: int, length: int) -> Program:
    """The step that gives `rows` texts one more token each, caches of `length` tokens behind them."""
    params, state = abstract_decoding(config, mesh, rows, length)
    return _compile(
        lambda: lower_decoding(config, mesh, params, state), memory.of_decoding(params, state), config, topology, mesh
    )


def _compile(
    lower: Callable[[], jax.stages.Lowered], given: Memory, config: ModelConfig, topology: Topology, mesh: Mesh
) -> Program:
    own, real = has_compiler(topology), compiles(topology)
    limit = topology.chip.usable if topology.chip else None
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="jaxlm-plan-") as folder:
        options: Any = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        if not own:
            options = {"xla_backend_optimization_level": 0}  # nobody runs the machine code of an estimate
        try:
            with jax.set_mesh(mesh):
                compiled = lower().compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as e:
            if (sizes := memory.needed(e)) is None:
                raise
            need, limit = sizes
            rest = need - dataclasses.replace(given, peak=0).total
            held = dataclasses.replace(given, activations=max(rest, 0), peak=need)
            return Program(held, None, (), time.perf_counter() - start, real, limit)
        seconds = time.perf_counter() - start
        # Compiled.as_text fails on large TPU programs.
        text = next(Path(folder).glob("*after_optimizations.txt")).read_text() if own else compiled.as_text()
        module = Module(text or "")
        buffers = memory.largest(Path(folder), module) if own else ()
    slices = slice_of(topology, mesh)
    found = collectives(module, sharding.AXES, slices, own_ids=own)
    if not real and config.dtype != "float32":
        found = tuple(map(_narrow, found))
    return Program(memory.in_use(given, compiled, own), None, found, seconds, real, limit, buffers, module.size)


def _narrow(c: Collective) -> Collective:
    """XLA's CPU compiler computes in float32, and so sends, what is bfloat16 elsewhere: all within the layers."""
    if c.part not in ("layers", "embedding") or "f32" not in c.shape:
        return c
    return dataclasses.replace(c, nbytes=c.nbytes // 2, shape=c.shape.replace("f32", "bf16"))
