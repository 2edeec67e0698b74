"""Checkpoints: how long a training loop stands still for one."""

from typing import Any

from benchsuite.bench import Bench, Rows
from benchsuite.row import Row, facts, median
from benchsuite.sizes import Size

# Pieces -------------------------------------------------------------------------------------------------------------


def save(size: dict[str, Any], repeats: int) -> dict[str, Any]:
    """Seconds that `Checkpoints.save` blocks, and until what it started is on disk; the first save is left out."""
    import tempfile
    import time

    import jax

    from benchsuite import gpt2
    from jaxlm import sharding
    from jaxlm.checkpoints.checkpoint import Checkpoints
    from jaxlm.train.setup import Setup

    run = gpt2.run_config(Size(**size))
    state = jax.block_until_ready(Setup(run, sharding.make_mesh(run.mesh, jax.devices()[:1])).create()[0])
    blocked, whole = [], []
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder, keep_last=1) as checkpoints:
        for step in range(repeats + 1):
            start = time.perf_counter()
            checkpoints.save(step, state, {})
            blocked.append(time.perf_counter() - start)
            checkpoints.wait()
            whole.append(time.perf_counter() - start)
    arrays = [x for x in jax.tree.leaves(state) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)]
    return {"blocked": blocked[1:], "whole": whole[1:], "nbytes": sum(x.nbytes for x in arrays)}


# Rows ---------------------------------------------------------------------------------------------------------------


def blocked(bench: Bench, id: str, size: Size, *, goal: str, repeats: int) -> Rows:
    """The time a save blocks as a share of the time until it is on disk."""
    piece = bench.run("saving:save", {"size": size.json(), "repeats": repeats})
    shares = tuple(a / b for a, b in zip(piece["blocked"], piece["whole"]))
    note = f"{piece['nbytes'] / 1e6:.0f} MB of state; {median(piece['blocked']) * 1e3:.0f} ms blocked, of "
    note += f"{median(piece['whole']):.2f} s until it is on disk, digest included"
    yield Row(id, median(shares), "", goal=goal, repeats=shares, note=note, facts=facts(piece))
