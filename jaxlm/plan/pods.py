"""A run on a topology: its step compiled where the compiler is at hand, estimated elsewhere, and timed."""

import dataclasses

from jaxlm.errors import UserError
from jaxlm.models import LMConfig
from jaxlm.plan.napkin import bubble
from jaxlm.plan.program import decode_program, train_program
from jaxlm.plan.roofline import predict
from jaxlm.plan.search import Option
from jaxlm.plan.topology import Topology, compiles
from jaxlm.plan.walk import estimate_decode, estimate_train
from jaxlm.run import RunConfig


def on(run: RunConfig, topology: Topology, changes: tuple[str, ...] = ()) -> Option:
    """The training step of `run` there: memory and collectives by the devices' own compiler, else by a walk through the
    program; what is computed and moved always by the walk. Raises UserError for a mesh that does not match."""
    program = estimate_train(run, topology)
    if compiles(topology):
        program = dataclasses.replace(train_program(run, topology.name), work=program.work)
    timing = predict(program, topology, bubble(run, topology)) if topology.chip else None
    return Option(run, program, timing, changes)


def decoding(run: RunConfig, topology: Topology, rows: int, length: int) -> Option:
    """The step that gives each of `rows` texts of `length` tokens one more, in the same way."""
    if not isinstance(model := run.model, LMConfig):
        raise UserError(f"plan: a {type(model).__name__} does not decode: leave --decode out")
    program = estimate_decode(model, topology, run.mesh, rows, length)
    if compiles(topology):
        compiled = decode_program(model, run.mesh, topology.name, rows, length)
        program = dataclasses.replace(compiled, work=program.work)
    return Option(run, program, predict(program, topology) if topology.chip else None)
