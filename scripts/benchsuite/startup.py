"""From starting Python to the first finished training step, without and with compiled programs on disk."""

import tempfile
from pathlib import Path
from typing import Any

from benchsuite.bench import Bench, Rows
from benchsuite.row import Row, facts
from benchsuite.sizes import Size

# Pieces -------------------------------------------------------------------------------------------------------------


def first_step(size: dict[str, Any]) -> dict[str, Any]:
    """Imports jaxlm, makes the state, compiles the step and takes one; seconds of each."""
    import time

    clock = [time.perf_counter()]
    import jax

    from benchsuite import gpt2
    from jaxlm import sharding
    from jaxlm.train.batch import place
    from jaxlm.train.memory import compile_step
    from jaxlm.train.setup import Setup

    run = gpt2.run_config(Size(**size))
    clock.append(time.perf_counter())
    mesh = sharding.make_mesh(run.mesh, jax.devices()[:1])
    setup = Setup(run, mesh)
    state, frozen = jax.block_until_ready(setup.create())
    clock.append(time.perf_counter())
    with jax.set_mesh(mesh):
        step = compile_step(setup)
        clock.append(time.perf_counter())
        batch = place(gpt2.batch(Size(**size)), run.objective.spec(run.data), mesh, 1)
        jax.block_until_ready(step(state, batch, frozen))
        clock.append(time.perf_counter())
    names = ("import", "state", "compilation", "step")
    return {"parts": {name: b - a for name, a, b in zip(names, clock, clock[1:])}}


# Rows ---------------------------------------------------------------------------------------------------------------


def seconds(bench: Bench, id: str, size: Size, *, cold: str, warm: str, repeats: int) -> Rows:
    """`cold` and `warm` are the goals, in seconds; the median of `repeats` warm starts."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as cache:
        start = lambda: bench.run("startup:first_step", {"size": size.json()}, cache=Path(cache))
        first, again = start(), [start() for _ in range(repeats)]
    yield _row(f"{id}.cold", [first], cold, size)
    yield _row(f"{id}.warm", again, warm, size)


def _row(id: str, pieces: list[dict[str, Any]], goal: str, size: Size) -> Row:
    taken = sorted((piece["finished"] - piece["started"], i) for i, piece in enumerate(pieces))
    value, middle = taken[len(taken) // 2]
    parts = ", ".join(f"{name} {s:.1f}" for name, s in pieces[middle]["parts"].items())
    note = f"{parts} (a step of {size.B} x {size.T} tokens)"
    return Row(id, value, "s", goal=goal, repeats=tuple(s for s, _ in taken), note=note, facts=facts(*pieces))
