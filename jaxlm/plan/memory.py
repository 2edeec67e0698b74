"""What a compiled step keeps in a device's memory: by kind, and the largest arrays."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax

from jaxlm.axes import Params
from jaxlm.decode import DecodeState
from jaxlm.plan.facts import Buffer, Memory
from jaxlm.plan.hlo import Module, plain
from jaxlm.train.memory import bytes_per_device
from jaxlm.train.setup import Setup

# What libtpu says of what does not fit; the first figure is of arguments and temporaries together.
TOO_MUCH = re.compile(r"CompileTimeHbmOom.*?\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)", re.S)
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
SHOWN = 16  # of the largest arrays


def of_state(setup: Setup) -> Memory:
    """What a training step is given: exact, from the layout of every array."""
    state, params = setup.state, (setup.state.params, setup.frozen)
    rest = bytes_per_device((setup.batch, state.step, state.key))
    there = [x for x in jax.tree.leaves(state.opt_state) if x.sharding.memory_kind == "pinned_host"]
    moments, host = bytes_per_device(state.opt_state), bytes_per_device(there)
    ema = bytes_per_device(state.ema)
    return Memory(bytes_per_device(params), moments - host, 0, ema=ema, other=rest, host=host)


def of_decoding(params: Params, state: DecodeState) -> Memory:
    """What a decoding step is given."""
    held = bytes_per_device(state.caches)
    return Memory(bytes_per_device(params), 0, 0, cache=held, other=bytes_per_device(state) - held)


def in_use(given: Memory, compiled: jax.stages.Compiled, own_compiler: bool) -> Memory:
    """`given`, and what only the compiler knows."""
    sizes: Any = compiled.memory_analysis()
    temporary = sizes.temp_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    # On CPU the peak is not that of a whole step.
    peak = sizes.peak_memory_in_bytes if own_compiler else 0
    host = given.host + sizes.host_temp_size_in_bytes
    return dataclasses.replace(given, activations=temporary, peak=peak, host=host)


def needed(error: Exception) -> tuple[int, int] | None:
    """Bytes needed and available on a device, if that is what the compiler complains of."""
    found = TOO_MUCH.search(str(error))
    return None if found is None else (_bytes(found[1], found[2]), _bytes(found[3], found[4]))


def largest(folder: Path, module: Module) -> tuple[Buffer, ...]:
    """The largest arrays that are not arguments, of which none share a place, from the compiler's dump."""
    text = next(folder.glob("*after_optimizations-buffer-assignment.txt")).read_text()
    places: dict[int, Buffer] = {}
    for size, body in re.findall(r"^allocation \d+: size (\d+),(.*?)(?=^allocation|^$)", text, re.M | re.S):
        if " preallocated-temp" not in body.splitlines()[0] or " color" in body.splitlines()[0] or not int(size):
            continue
        found = re.findall(r"<\d+ ([\w.\-]+)(?:\{[\d,]*\})?.*?@\d+> \(size=(\d+),offset=(\d+)\): (.*)", body)
        for name, size, offset, shape in sorted(found, key=lambda value: -int(value[1])):
            known = places.get(int(offset))
            if known is None or (not known.op and known.nbytes == int(size)):
                places[int(offset)] = Buffer(int(size), plain(shape), module.op(name))
    return _apart(places)


def _apart(places: dict[int, Buffer]) -> tuple[Buffer, ...]:
    """The largest first, leaving out what overlaps with a larger one."""
    chosen: dict[int, Buffer] = {}
    for start, buffer in sorted(places.items(), key=lambda place: -place[1].nbytes):
        end = start + buffer.nbytes
        if all(end <= other or other + taken.nbytes <= start for other, taken in chosen.items()):
            chosen[start] = buffer
        if len(chosen) == SHOWN:
            break
    return tuple(chosen.values())


def _bytes(number: str, unit: str) -> int:
    return round(float(number) * UNITS[unit])
