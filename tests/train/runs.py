"""Small runs, and what they left on disk, for comparisons."""

import json
import os
import signal
from pathlib import Path

import jax

from jaxlm import sharding
from jaxlm.checkpoints.checkpoint import steps
from jaxlm.checkpoints.stored import describe
from jaxlm.run import RunConfig
from jaxlm.train.report import Report
from tests import tiny


def a_run(text: Path) -> RunConfig:
    """Eight steps on one device, with dropout and a moving average; compiled once for all tests."""
    return tiny.run(text, steps=8, model=tiny.model(dropout=0.1), ema=0.9, writers=("jsonl", "tensorboard"))


def put_on_one_device(monkeypatch) -> None:
    """Runs with a mesh of one device get the first of the eight; other meshes are as ever."""
    make_mesh = sharding.make_mesh

    def one(mesh, devices=None):
        first = jax.devices()[:1] if (mesh.data, mesh.fsdp, mesh.tensor) == (1, 1, 1) else None
        return make_mesh(mesh, first if devices is None else devices)

    monkeypatch.setattr(sharding, "make_mesh", one)


def stop_at(monkeypatch, step: int) -> None:
    """SIGTERM after this step."""
    plain = Report.step

    def patched(self, number, metrics):
        plain(self, number, metrics)
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Report, "step", patched)


def numbers(folder: Path, prefix: str = "") -> list[dict]:
    """The lines of `metrics.jsonl`, without what depends on the clock."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    lines = [{k: v for k, v in line.items() if not k.startswith("perf/")} for line in lines]
    return [line for line in lines if any(name.startswith(prefix) for name in line if name != "step")]


def digests(folder: Path) -> dict[int, dict[str, int]]:
    """Of every array of every checkpoint."""
    kept = steps(folder / "checkpoints")
    return {step: describe(folder / "checkpoints" / str(step)).custom_metadata["digest"] for step in kept}
