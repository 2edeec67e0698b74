"""Attention alone, forward and backward, at long sequences."""

from typing import Any

from benchsuite.bench import Bench, Rows
from benchsuite.row import Row, facts, median

# Pieces -------------------------------------------------------------------------------------------------------------


def gradient(
    implementation: str, B: int, T: int, H: int, K: int, dtype: str, warm: int, repeats: int, steps: int
) -> dict:
    """A causal forward and backward pass: seconds, temporary bytes, and FLOPs, 3.5 times the forward pass's 2 B T^2 H K
    (Dao 2023, arXiv:2307.08691)."""
    import jax
    import jax.numpy as jnp

    from benchsuite.timing import seconds_per_step
    from jaxlm.ops.attention import attention

    q, k, v, do = jax.random.normal(jax.random.key(0), (4, B, T, H, K), jnp.dtype(dtype))

    @jax.jit
    def both(q, k, v, do):
        o, back = jax.vjp(lambda *x: attention(*x, implementation=implementation), q, k, v)
        return o, back(do)

    program = both.lower(q, k, v, do).compile()
    step = lambda: program(q, k, v, do)
    for _ in range(warm):
        jax.block_until_ready(step())
    seconds = seconds_per_step(step, jax.block_until_ready, repeats, steps)
    memory = program.memory_analysis().temp_size_in_bytes
    return {"seconds": seconds, "flops": 3.5 * 2 * B * T * T * H * K, "memory": memory}


# Rows ---------------------------------------------------------------------------------------------------------------


def compared(bench: Bench, id: str, *, goal: str, only: str | None = None, **args: Any) -> Rows:
    """cuDNN's kernel beside the library's own blockwise path; `only` where cuDNN is not."""
    names = [only] if only else ["cudnn", "blockwise"]
    pieces = [bench.run("attention:gradient", {"implementation": name} | args) for name in names]
    for name, piece in zip(names, pieces):
        rates = tuple(piece["flops"] / s / 1e12 for s in piece["seconds"])
        note = f"B={args['B']} T={args['T']} H={args['H']} K={args['K']} {args['dtype']}, {name}"
        yield Row(
            f"{id}.{name}",
            median(rates),
            "TFLOP/s",
            goal=goal if name == "cudnn" else "",
            repeats=rates,
            note=note,
            facts=facts(piece),
        )
    if only:
        yield Row(f"{id}.cudnn", None, "TFLOP/s", goal=goal, note="needs an NVIDIA GPU")


def saved(bench: Bench, id: str, **args: Any) -> Rows:
    """The blockwise path beside the one that holds all scores: rate, and temporary memory of the compiled program."""
    ours, theirs = (
        bench.run("attention:gradient", {"implementation": name} | args) for name in ("blockwise", "reference")
    )
    rates, peer = (tuple(piece["flops"] / s / 1e9 for s in piece["seconds"]) for piece in (ours, theirs))
    note = f"B={args['B']} T={args['T']} H={args['H']} K={args['K']} {args['dtype']}; the peer holds all T x T scores"
    both = facts(ours, theirs)
    ratio = median(rates) / median(peer)
    yield Row(id, median(rates), "GFLOP/s", median(peer), ratio, repeats=rates, note=note, facts=both)
    mib, most = ours["memory"] / 2**20, theirs["memory"] / 2**20
    yield Row(f"{id}.memory", mib, "MiB", most, most / mib, note=f"temporary bytes; {note}", facts=both)
