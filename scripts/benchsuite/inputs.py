"""Training data: how fast batches are made, and how long a run waits for them."""

from benchsuite.bench import Bench, Rows
from benchsuite.row import Row, facts, median

DOCUMENT = 600  # tokens, on average

# Pieces -------------------------------------------------------------------------------------------------------------


def loader(tokens: int, T: int, rows: int, batches: int, repeats: int) -> dict:
    """Tokens/s of the training loader over random documents on disk, and of a plain loop over the same file."""
    import tempfile
    from pathlib import Path

    import numpy as np

    from benchsuite.timing import seconds_per_step
    from jaxlm.data.loader import TrainBatches, windows
    from jaxlm.data.pack import pack
    from jaxlm.data.shards import Shards, ShardWriter

    rng = np.random.default_rng(0)
    stream = rng.integers(1, 50_257, tokens).astype(np.uint16)
    stream[rng.integers(0, tokens, tokens // DOCUMENT)] = 0
    with tempfile.TemporaryDirectory() as folder:
        writer = ShardWriter(Path(folder) / "train", np.dtype("<u2"))
        writer.write(stream)
        writer.close()
        shards = Shards(Path(folder) / "train")
        stream = windows([shards], [1.0], T, seed=0)
        with TrainBatches(stream, rows, range(rows), "", lambda windows: pack(windows, 0)) as ours:
            next(ours)
            packed = seconds_per_step(lambda: next(ours), lambda _: None, repeats, batches)
        plain = _plain(np.memmap(shards.folder / shards.meta["shards"][0]["file"], "<u2", mode="r"), T, rows)
        next(plain)
        bare = seconds_per_step(lambda: next(plain), lambda _: None, repeats, batches)
    return {"seconds": packed, "plain_seconds": bare, "tokens": T * rows}


def _plain(stream, T: int, rows: int):
    """What one writes without a library: random windows of a memory map, as inputs and labels."""
    import numpy as np

    rng = np.random.default_rng(0)
    while True:
        starts = rng.integers(0, len(stream) - T - 1, rows)
        windows = np.stack([stream[i : i + T + 1] for i in starts]).astype(np.int32)
        yield windows[:, :-1], windows[:, 1:]


def starvation(tiny: bool, steps: int) -> dict:
    """A small run of `jaxlm.train.loop` on Python's own sources: the share of its time spent waiting for batches."""
    import json
    import tempfile
    from pathlib import Path

    from jaxlm.data import DataConfig
    from jaxlm.models import LMConfig
    from jaxlm.nn import AttentionConfig, BlockConfig, LayersConfig, MLPConfig
    from jaxlm.run import RunConfig
    from jaxlm.sharding import MeshConfig
    from jaxlm.train.loop import train

    D, N, T, batch = (32, 1, 32, 2) if tiny else (192, 4, 256, 8)
    block = BlockConfig(AttentionConfig(H=D // 32, K=32), MLPConfig(F=3 * D))
    run = RunConfig(
        model=LMConfig(V=257, D=D, layers=(LayersConfig((block,), N),)),
        data=DataConfig(T=T, limit=300_000 if tiny else 3_000_000, holdout=0.2),
        mesh=MeshConfig(data=1),
        steps=steps,
        batch=batch,
        log_every=10,
        eval_every=0,
        eval_tokens=1,
        save_every=0,
        sample_every=0,
        sample_tokens=1,
        writers=("jsonl",),
    )
    with tempfile.TemporaryDirectory() as folder:
        train(run, folder)
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "perf/input_starvation" in line][1:]  # the first has compilation in it
    wall = sum(line["perf/step_seconds"] for line in lines)
    return {
        "value": sum(line["perf/input_starvation"] * line["perf/step_seconds"] for line in lines) / wall,
        "step_seconds": wall / len(lines),
        "tokens": run.tokens_per_step,
    }


# Rows ---------------------------------------------------------------------------------------------------------------


def packed(bench: Bench, id: str, *, goal: str, **args: int) -> Rows:
    piece = bench.run("inputs:loader", args, cores=1)
    rates = tuple(piece["tokens"] / s / 1e6 for s in piece["seconds"])
    bare = piece["tokens"] / median(piece["plain_seconds"]) / 1e6
    note = (
        f"T={args['T']}, {args['rows']} rows, one core; the peer is a plain numpy loop, which does not find documents"
    )
    yield Row(id, median(rates), "M tokens/s", bare, median(rates) / bare, goal, rates, note, facts(piece))


def waiting(bench: Bench, id: str, *, goal: str, tiny: bool, steps: int) -> Rows:
    piece = bench.run("inputs:starvation", {"tiny": tiny, "steps": steps})
    note = (
        f"{steps} steps of {piece['tokens']} tokens, {piece['step_seconds'] * 1e3:.0f} ms each; the first 10 left out"
    )
    yield Row(id, 100 * piece["value"], "%", goal=goal, note=note, facts=facts(piece))
