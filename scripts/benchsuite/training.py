"""Training steps: tokens per second, the fraction of the matmul rate, and transformers on the same weights and ids."""

import dataclasses
import shutil
from typing import Any

from benchsuite.bench import Bench, Rows
from benchsuite.ceilings import known, measure
from benchsuite.row import Row, facts, median
from benchsuite.sizes import Size
from benchsuite.timing import seconds_per_step

GATE_STEPS = 2  # steps whose loss and gradient norm are compared: the second one has seen the optimizer
FLOAT32 = {"loss": 1e-4, "grad_norm": 1e-4}  # relative
BFLOAT16 = {"loss": 1e-2, "grad_norm": 5e-2}

# Pieces -------------------------------------------------------------------------------------------------------------


def train(
    size: dict[str, Any], warm: int, repeats: int, steps: int, export: str | None = None, segments: bool = True
) -> dict[str, Any]:
    """The library's own compiled step on one batch, again and again.

    Without `segments` attention is not told of packed documents, which lets a kernel skip what is not causal.
    """
    import time

    import jax

    from benchsuite import gpt2
    from jaxlm import sharding
    from jaxlm.models import flops
    from jaxlm.train.batch import place
    from jaxlm.train.memory import compile_step
    from jaxlm.train.setup import Setup

    shape = Size(**size)
    run = gpt2.run_config(shape)
    mesh = sharding.make_mesh(run.mesh, jax.devices()[:1])
    setup = Setup(run, mesh)
    state, frozen = setup.create()
    state = dataclasses.replace(state, params=gpt2.roughen(state.params))
    if export is not None:
        gpt2.export(state.params, gpt2.tokens(shape, shape.B, shape.T + 1), export)
    first: list[dict[str, Any]] = []
    with jax.set_mesh(mesh):
        start = time.perf_counter()
        batch: dict[str, Any] = dict(place(gpt2.batch(shape), run.objective.spec(run.data), mesh, 1))
        if segments:
            step = compile_step(setup)
        else:
            step = jax.jit(setup.train_step, donate_argnums=0)
            batch["segments"] = None

        def advance():
            nonlocal state
            state, metrics = step(state, batch, frozen)
            return state, metrics

        for i in range(warm):
            first.append(jax.block_until_ready(advance())[1])
            if i == 0:
                compile_seconds = time.perf_counter() - start
        seconds = seconds_per_step(advance, jax.block_until_ready, repeats, steps)
    stats = jax.local_devices()[0].memory_stats() or {}
    return {
        "seconds": seconds,
        "loss": [float(m["loss"]) for m in first],
        "grad_norm": [float(m["grad_norm"]) for m in first],
        "flops": flops.train_flops(run.model, run.data.T) * shape.tokens,
        "first_seconds": compile_seconds,  # with compilation
        "device_gib": stats.get("peak_bytes_in_use", 0) / 2**30,
    }


def plan(size: dict[str, Any], topology: str, matmul: float, copy: float) -> dict[str, Any]:
    """What `jaxlm plan` says of the same step; a device without datasheet has `matmul` FLOP/s and `copy` bytes/s."""
    from benchsuite import gpt2
    from jaxlm.machine.chips import Chip
    from jaxlm.plan import roofline
    from jaxlm.plan.topology import parse
    from jaxlm.plan.walk import estimate_train

    where = parse(topology)
    program = estimate_train(gpt2.run_config(Size(**size)), where)
    if where.chip is None:
        # Ceilings are what is reached, of which the roofline takes a share of the datasheet's rates to be.
        flops, hbm = matmul / roofline.COMPUTE, copy / roofline.MEMORY
        chip = Chip("measured", (), flops, 0, 0, hbm, links=0, link=0, torus=0, most=1, network=0)
        where = dataclasses.replace(where, chip=chip)
    timing = roofline.predict(program, where)
    assert program.work is not None
    times = {name: getattr(timing, name) for name in ("step", "compute", "memory")}
    return times | {"moved": program.work.hbm_bytes, "flops": program.work.model_flops}


# Rows ---------------------------------------------------------------------------------------------------------------


def compared(
    bench: Bench,
    id: str,
    size: Size,
    *,
    goal: str,
    effort: dict[str, int],
    matmul: dict[str, Any] | None = None,
    fraction: str = "",
    compiled: bool = False,
    memory: str = "",
) -> Rows:
    """ours, peer, ours: tokens/s and the ratio; with `matmul` also the fraction of that rate, measured around them.

    The peer is eager or `compiled` by torch.compile. `memory` is the goal of the device's peak over the peer's.
    """
    if matmul:
        measure(bench, "matmul", **matmul)
    folder = bench.folder / id
    args = {"size": size.json(), "warm": max(GATE_STEPS, effort["warm"])} | {k: effort[k] for k in ("repeats", "steps")}
    ours = [bench.run("training:train", {"export": str(folder) if bench.peer else None} | args)]
    peer, why = None, "no --peer"
    if bench.peer:
        peer = bench.run("peer:train", {"folder": str(folder), "compiled": compiled} | args, peer=True)
        why = gate(ours[0], peer, FLOAT32 if size.dtype == "float32" else BFLOAT16)
        shutil.rmtree(folder)
    ours.append(bench.run("training:train", args))
    rates = [size.tokens / s for piece in ours for s in piece["seconds"]]
    theirs = size.tokens / median(peer["seconds"]) if peer else None
    value = None if peer and why else median(rates)
    spread = median(ours[1]["seconds"]) / median(ours[0]["seconds"]) - 1
    gigaflops = ours[0]["flops"] / size.tokens * median(rates) / 1e9
    note = [
        why,
        f"{gigaflops:.0f} GFLOP/s",
        f"again {spread:+.1%}",
        f"first step with compilation {ours[0]['first_seconds']:.1f} s",
        f"peak {ours[1]['peak_gib']:.1f} GiB" + (f", peer {peer['peak_gib']:.1f}" if peer else ""),
    ]
    told = facts(*ours, *filter(None, [peer]))
    ratio = value / theirs if value and theirs else None
    yield Row(id, value, "tokens/s", theirs, ratio, goal, tuple(rates), "; ".join(filter(None, note)), told)
    if matmul:
        rate = measure(bench, "matmul", **matmul) / 1e9
        share = None if value is None else gigaflops / rate
        note = f"{gigaflops:.0f} of {rate:.0f} GFLOP/s"
        yield Row(f"{id}.matmul_fraction", share, "", None, None, fraction, (), note, told)
    if memory:
        mine, its = ours[1]["device_gib"], (peer or {}).get("device_gib")
        note = f"peaks of {mine:.2f} GiB" + (f" and the peer's {its:.2f}" if its else "; the peer's is not known")
        yield Row(f"{id}.memory", mine / its if its else None, "x peer", goal=memory, note=note, facts=told)


def gate(ours: dict[str, Any], peer: dict[str, Any], tolerance: dict[str, float]) -> str:
    """Why the two did not compute the same; "" if they did."""
    for i in range(GATE_STEPS):
        for name, limit in tolerance.items():
            a, b = ours[name][i], peer[name][i]
            if not abs(a - b) <= limit * abs(b):
                return f"void: {name} of step {i + 1} is {a:.6g}, the peer's {b:.6g}"
    return ""


def mfu(
    bench: Bench,
    id: str,
    size: Size,
    *,
    goal: str,
    effort: dict[str, int],
    peak: float,
    segments: bool = True,
    matmul: dict[str, Any],
) -> Rows:
    """The fraction of the datasheet peak that a training step reaches."""
    piece = bench.run("training:train", {"size": size.json(), "segments": segments} | effort)
    rate = [piece["flops"] / s for s in piece["seconds"]]
    share = median(rate) / known(bench, "matmul", **matmul)
    note = (
        f"{size.tokens / median(piece['seconds']):,.0f} tokens/s; {median(rate) / 1e12:.3g} TFLOP/s, {share:.1%} of "
        f"the measured matmul rate; {size.tokens} tokens a step; peak {piece['device_gib']:.1f} GiB; first step with "
        f"compilation {piece['first_seconds']:.1f} s; loss {piece['loss'][0]:.4f}"
    )
    yield Row(
        id, median(rate) / peak, "MFU", goal=goal, repeats=tuple(r / peak for r in rate), note=note, facts=facts(piece)
    )


def predicted(
    bench: Bench, id: str, size: Size, *, effort: dict[str, int], topology: str, matmul: dict[str, Any], copy: dict
) -> Rows:
    """The seconds that `jaxlm plan` gives a step, against those it takes.

    A device that is not in the table of chips gets the rates that are measured around the steps.
    """
    ceilings = {"matmul": matmul, "copy": copy}
    for name, args in ceilings.items():
        measure(bench, name, **args)
    piece = bench.run("training:train", {"size": size.json()} | effort)
    rates = {name: measure(bench, name, **args) for name, args in ceilings.items()}
    plan = bench.run("training:plan", {"size": size.json(), "topology": topology} | rates)
    taken = median(piece["seconds"])
    mfu = {"predicted": plan["flops"] / plan["step"], "measured": piece["flops"] / taken}
    share = ", ".join(f"{name} {rate / rates['matmul']:.1%}" for name, rate in mfu.items())
    note = (
        f"of the measured matmul rate: {share}; predicted {plan['compute']:.3g} s to compute, {plan['memory']:.3g} s "
        f"to move {plan['moved'] / 1e9:.3g} GB"
    )
    repeats = tuple(plan["step"] / s for s in piece["seconds"])
    yield Row(id, plan["step"], "s", taken, plan["step"] / taken, repeats=repeats, note=note, facts=facts(piece, plan))


def slowdown(bench: Bench, id: str, size: Size, other: Size, *, goal: str, effort: dict[str, int], what: str) -> Rows:
    """Step time of `size` over that of `other`, in the order other, size, other."""
    pieces = [bench.run("training:train", {"size": s.json()} | effort) for s in (other, size, other)]
    a, b, c = (median(piece["seconds"]) for piece in pieces)
    note = (
        f"{what}; {b * 1e3:.4g} ms against {a * 1e3:.4g} and {c * 1e3:.4g}; compilation included the first step took "
    )
    note += f"{pieces[1]['first_seconds']:.1f} and {pieces[0]['first_seconds']:.1f} s"
    yield Row(id, b / median([a, c]), "x", goal=goal, repeats=(b / a, b / c), note=note, facts=facts(*pieces))
