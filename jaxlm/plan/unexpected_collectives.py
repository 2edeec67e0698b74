"""Collectives that a step should not need: of what ought to stay divided, or of a kind that is none of ours."""

import math
from collections.abc import Iterator

import jax

from jaxlm.models import abstract, layers
from jaxlm.plan.facts import Collective, Program
from jaxlm.plan.hlo import dims
from jaxlm.run import RunConfig

SMALL = 1e-3  # of all bytes that a step sends: what is less costs nothing


def unexpected_collectives(program: Program, run: RunConfig) -> list[str]:
    """One line for each, the costliest first; empty when the step has only those that its mesh implies."""
    sent = sum(c.nbytes * c.times for c in program.collectives)
    lines = []
    for c in program.collectives:
        why = next(_why(c, run, program.compiled), None)
        if why is not None and c.nbytes * c.times >= SMALL * sent:
            times = f" ({c.times} times)" if c.times > 1 else ""
            lines.append(f"{c.kind} of {c.shape} over {' and '.join(c.axes)}{times}: {why}, in {c.op or c.part}")
    return lines


def _why(c: Collective, run: RunConfig, compiled: bool) -> Iterator[str]:
    model, mesh = run.model, run.mesh
    tokens = run.batch // run.accumulate * run.data.T
    widths = {model.D, getattr(model, "embed_width", None) or model.D}
    periods = {g.repeat for groups in model.stacks().values() for g in groups if g.repeat > 1}
    for d in dims(c.shape):
        # The table, or a part of its width, has the vocabulary first, or its width may stand as (devices, part).
        if model.V in d[1:] and not widths & {*d, math.prod(d) // model.V} and math.prod(d) > model.V:
            yield "logits of the whole vocabulary"
        whole = d[-1:] == (model.D,) and math.prod(d[:-1]) >= tokens and not _weight(d, run)
        if whole and mesh.data * mesh.fsdp * mesh.expert != 1 and d[0] not in periods:
            yield "activations of the whole batch"
        stream = list(d[1:]) == [run.data.T, model.D]
        once = c.kind == "all-gather" and c.times == 1 and math.prod(d[1:]) > model.D and not stream
        if once and len(d) > 2 and d[0] in periods:
            yield f"the weights of all {d[0]} layers at once"
    dtype = "f32" if model.dtype == "float32" else "16"
    # What data alone gathers is the end of a sum over slices: no weight is divided over it.
    gathered = c.kind == "all-gather" and c.part == "layers" and c.axes != ("data",)
    if compiled and dtype == "16" and gathered and c.shape.startswith("f32"):
        ffns = [ffn for layer in layers(model) for ffn in layer.config.ffns]
        routers = {(model.D, getattr(ffn, "E", 0)) for ffn in ffns}  # which read it
        if not {d[-2:] for d in dims(c.shape)} <= routers:
            yield "float32, where the products read 16 bits"
    # Over slices what is sent loses its name; it is known by its size, a part of the stream.
    part, sizes = tokens * model.D // math.prod(mesh.sizes.values()), [math.prod(d) for d in dims(c.shape)]
    embedded = c.part == "embedding" or (c.times == 1 and sizes == [part * mesh.tensor])  # rows looked up elsewhere
    if c.kind == "all-to-all" and not embedded and not {"expert", "context"} & set(c.axes):
        yield "re-sharding"
    # Products overlap with the ring that brings their operands.
    ring = "dot_general" in c.op or (c.axes == ("tensor",) and sizes == [part])
    if c.kind == "collective-permute" and not {"context", "stage"} & set(c.axes) and not ring:
        yield "re-sharding"


def _weight(d: tuple[int, ...], run: RunConfig) -> bool:
    """Whether these are the dimensions of one layer's weight, or of the table, on a device that has all of it."""
    shapes = {x.shape for x in jax.tree.leaves(abstract(run.model)[0])}
    return any(d in (shape, shape[1:], (1, *shape[1:])) for shape in shapes)
