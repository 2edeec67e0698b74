"""Character-level Shakespeare, the config `shakespeare`, as `jaxlm train` runs it."""

from pathlib import Path

from benchsuite.bench import Bench, Rows
from benchsuite.row import Row, facts

# Pieces -------------------------------------------------------------------------------------------------------------


def learn(text: str, overrides: list[str]) -> dict:
    """Validation loss in nats per character at the end, and seconds from the config to the end."""
    import json
    import tempfile
    import time

    from jaxlm.config import resolve
    from jaxlm.train.loop import train

    start = time.perf_counter()
    run = resolve("shakespeare", [f"data.sources.0.path={text}", "mesh.data=1", *overrides])
    with tempfile.TemporaryDirectory() as folder:
        train(run, folder)
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    losses = [line["eval/loss"] for line in lines if "eval/loss" in line]
    return {"value": losses[-1], "seconds": time.perf_counter() - start, "steps": run.steps, "losses": losses}


# Rows ---------------------------------------------------------------------------------------------------------------


def rows(bench: Bench, id: str, *, goal: str, overrides: tuple[str, ...] = ()) -> Rows:
    if bench.text is None:
        yield Row(id, None, "nats", goal=goal, note="needs --text FILE, the text of Tiny Shakespeare")
        yield Row(f"{id}.seconds", None, "s", note="needs --text FILE")
        return
    piece = bench.run("shakespeare:learn", {"text": str(Path(bench.text).resolve()), "overrides": list(overrides)})
    note = f"{piece['steps']} steps; validation loss on the last tenth of the text, as it went: "
    note += ", ".join(f"{loss:.3f}" for loss in piece["losses"])
    yield Row(id, piece["value"], "nats", goal=goal, note=note, facts=facts(piece))
    note = "the whole run: data, compilation, evaluations, checkpoints and samples"
    yield Row(f"{id}.seconds", piece["seconds"], "s", note=note, facts=facts(piece))
