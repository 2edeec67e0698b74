"""A plan in words: one JSON object, or tables for people."""

import dataclasses
from typing import Any

from jaxlm.plan.facts import Collective, Memory, Program, Work
from jaxlm.plan.roofline import Timing, seconds
from jaxlm.plan.search import Option
from jaxlm.plan.topology import Topology

GiB, MiB = 2**30, 2**20
SHOWN, WIDE = 12, 60  # lines, and characters of a shape


def facts(option: Option, topology: Topology) -> dict[str, Any]:
    """What is said of a step on a topology, as plain JSON."""
    program, timing, layers = option.program, option.timing, option.run.model.depth
    kinds, timed = program.memory.kinds(), {}
    if timing is not None:
        timed = {
            "predicted_step_seconds": timing.step,
            "predicted_mfu": timing.mfu,
            "bound": timing.bound,
            "seconds_by_part": timing.parts(),
        }
    return {
        "topology": topology.name,
        "devices": topology.devices,
        "compiled": program.compiled,  # by the chips' own compiler; else an estimate
        "fits": program.fits,
        "bytes_per_device": {**kinds, "total": program.memory.total, "limit": program.limit},
        "largest_buffers": [dataclasses.asdict(buffer) for buffer in program.largest[:SHOWN]],
        "collectives": [_collective(one, topology, layers) for one in _ordered(program, topology)],
        "flops_per_device": program.work.flops if program.work else None,
        "hbm_bytes_per_device": program.work.hbm_bytes if program.work else None,
        "compile_seconds": program.compile_seconds,
        **timed,
    }


def _ordered(program: Program, topology: Topology) -> list[Collective]:
    """Equal collectives as one, the longest first."""
    together: dict[Collective, int] = {}
    for one in program.collectives:
        alike = dataclasses.replace(one, times=0, op="")
        together[alike] = together.get(alike, 0) + one.times
    found = [dataclasses.replace(one, times=times) for one, times in together.items()]
    return sorted(found, key=lambda one: -(seconds(one, topology) if topology.chip else one.nbytes * one.times))


def _collective(one: Collective, topology: Topology, layers: int) -> dict[str, Any]:
    found = {name: value for name, value in dataclasses.asdict(one).items() if name not in ("op", "nbytes")}
    per_layer = {"per_layer": round(one.times / layers, 2)} if one.part == "layers" else {}
    timed = {"seconds": seconds(one, topology)} if topology.chip else {}
    return found | {"bytes": one.nbytes} | per_layer | timed


def table(option: Option, topology: Topology) -> str:
    """The same for people."""
    program, timing, layers = option.program, option.timing, option.run.model.depth
    how = f"compiled in {program.compile_seconds:.0f} s" if program.compiled else "an ESTIMATE, not compiled for it"
    lines = [f"{topology.name}, {topology.devices} devices: {how}", "", *_memory(program.memory, program.limit)]
    if program.largest:
        lines += ["", "largest arrays of the step"]
        lines += [f"  {b.nbytes / GiB:8.2f} GiB  {b.shape}  {b.op[-60:]}".rstrip() for b in program.largest[:5]]
    if program.work is not None:
        lines += ["", _work(program, program.work)]
    if timing is not None:
        lines += ["", *_timing(timing)]
    if program.collectives:
        head = f"{'collective':20}{'part':11}{'over':16}{'times':>7}{'a layer':>9}{'MiB':>10}{'seconds':>9}  array"
        lines += ["", head]
        lines += [_line(one, topology, layers) for one in _ordered(program, topology)[:SHOWN]]
    return "\n".join(lines)


def _memory(memory: Memory, limit: int | None) -> list[str]:
    lines = [f"  {name:<12}{n / GiB:8.2f} GiB" for name, n in memory.kinds().items() if n]
    verdict = ""
    if limit is not None:
        verdict = f" of {limit / GiB:.2f}: " + ("fits" if memory.total <= limit else "DOES NOT FIT")
    return ["memory of a device", *lines, f"  {'at once':<12}{memory.total / GiB:8.2f} GiB{verdict}"]


def _work(program: Program, work: Work) -> str:
    own, sent = work.model_flops / work.flops, sum(one.nbytes * one.times for one in program.collectives)
    computes = f"computes {work.flops / 1e12:.4g} TFLOP ({own:.0%} of them the model's own)"
    return f"a device {computes}, moves {work.hbm_bytes / 1e9:.4g} GB, exchanges {sent / 1e9:.4g} GB"


def _timing(timing: Timing) -> list[str]:
    lines = [f"  {name:<22}{t:9.4g} s" for name, t in timing.parts().items() if t]
    head = f"predicted step {timing.step:.4g} s, MFU {timing.mfu:.1%}, most of it {timing.bound}"
    return [head, *lines]


def _line(one: Collective, topology: Topology, layers: int) -> str:
    over = "x".join(one.axes) + (" (slow)" if one.slow else "")
    each = f"{one.times / layers:.2g}" if one.part == "layers" else ""
    time = f"{seconds(one, topology):.3g}" if topology.chip else ""
    shape = one.shape if len(one.shape) <= WIDE else f"{one.shape[:WIDE]} ..."
    return f"{one.kind:20}{one.part:11}{over:16}{one.times:>7}{each:>9}{one.nbytes / MiB:>10.1f}{time:>9}  {shape}"


def advice(better: Option | None, found: Option) -> str:
    """What to do about a step that does not fit."""
    if better is None:
        return "no change or pair of changes was found that makes it fit: take more devices"
    fits = f"{better.program.memory.total / GiB:.1f} GiB, estimated"
    slower = ""
    if better.timing and found.timing:
        slower = f"; the step is predicted to take {better.timing.step:.3g} s, not {found.timing.step:.3g}"
    return f"the cheapest change that makes it fit: {' '.join(better.changes)} ({fits}{slower})"


def ranking(options: list[Option]) -> str:
    """What a search found: a line an option."""
    lines = [f"{'step s':>8}{'MFU':>7}{'tokens/s':>12}{'GiB':>8}  how"]
    for option in options:
        assert option.timing is not None, "only what has a speed is ranked"
        how = " ".join(change for change in option.changes if not change.endswith("=1"))
        memory, timing = option.program.memory.total / GiB, option.timing
        lines.append(f"{timing.step:8.3g}{timing.mfu:7.1%}{option.speed:12,.0f}{memory:8.1f}  {how}")
    return "\n".join(lines)
