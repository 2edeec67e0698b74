"""Finished training runs, the points of a scaling law: from a table, from JSON lines, or from our own run folders."""

import csv
import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm import config
from jaxlm.errors import UserError
from jaxlm.models import flops
from jaxlm.paths import expand
from jaxlm.run import RunConfig

SPELLINGS = {
    "parameters": ("parameters", "params", "n", "model size"),
    "tokens": ("tokens", "d", "training tokens"),
    "flops": ("flops", "c", "training flop", "training flops"),
    "loss": ("loss", "eval/loss"),
}


@dataclasses.dataclass(frozen=True)
class Runs:
    """Four arrays of one length, a run each.

    Attributes:
        parameters: active parameters, embeddings included.
        tokens: seen in training.
        loss: the last, held-out, in nats per token.
        flops: of training; 6 x parameters x tokens unless given.
    """

    parameters: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    flops: np.ndarray = dataclasses.field(default=None)  # type: ignore[assignment]  # never None once made

    def __post_init__(self):
        if self.flops is None:
            object.__setattr__(self, "flops", 6 * np.asarray(self.parameters, float) * self.tokens)
        for name in SPELLINGS:
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        shapes = {getattr(self, name).shape for name in SPELLINGS}
        if len(shapes) > 1 or self.loss.ndim != 1:
            raise UserError(f"parameters, tokens, loss and flops must be a number a run each, got shapes {shapes}")
        for name in SPELLINGS:
            values = getattr(self, name)
            bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
            if len(bad):
                raise UserError(f"run {bad[0] + 1}: {name} is {values[bad[0]]:g}; it must be a positive number")

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, which: Any) -> "Runs":
        """The runs of these indices, or of this mask."""
        return Runs(self.parameters[which], self.tokens[which], self.loss[which], self.flops[which])

    def without_highest(self, count: int) -> "Runs":
        """All but the `count` runs of the highest loss, which no law fits: of training cut off too early."""
        return self.take(np.sort(np.argsort(self.loss, kind="stable")[: len(self) - count]))

    def by_compute(self) -> "Runs":
        return self.take(np.argsort(self.flops, kind="stable"))


def read(paths: Iterable[str | Path]) -> Runs:
    """All runs of these files and folders: .csv with a header, .jsonl, or a folder that `jaxlm train` made.

    Columns are `parameters`, `loss`, and `tokens` or `flops`, in any of `SPELLINGS`; others are let alone. Raises
    UserError for a missing column, and for a value that is no positive number, with its row.
    """
    rows = [row for path in map(expand, paths) for row in (_folder(path) if path.is_dir() else _file(path))]
    if not rows:
        raise UserError("there is not one run to read")
    columns = {name: [row[name] for row in rows] for name in SPELLINGS}
    return Runs(**{name: np.array(values) for name, values in columns.items()})


def _file(path: Path) -> list[dict[str, float]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read the runs of {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: runs are read from .csv, .jsonl or a run folder") from error
    if path.suffix == ".csv":
        table = csv.reader(text.splitlines())
        header = next(table, [])
        found = [dict(zip(header, row)) for row in table if row]
    elif path.suffix in (".jsonl", ".json"):
        found = [_json(line, f"{path}, line {i + 1}") for i, line in enumerate(text.splitlines()) if line.strip()]
    else:
        raise UserError(f"{path}: runs are read from .csv, .jsonl or a run folder")
    return [_row(row, f"{path}, run {i + 1}") for i, row in enumerate(found)]


def _json(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"{where} is not a JSON object")
    return row


def _row(row: dict[str, Any], where: str) -> dict[str, float]:
    """Our names and numbers; what is missing of tokens and flops follows from the other by C = 6 N D."""
    spelled = {key.strip().lower(): value for key, value in row.items() if key}
    found = {}
    for name, spellings in SPELLINGS.items():
        key = next((key for key in spellings if key in spelled), None)
        if key is not None:
            found[name] = _number(spelled[key], key, where)
    for need in ({"parameters"}, {"loss"}, {"tokens", "flops"}):
        if not need & found.keys():
            names = " or ".join(f"{name!r}" for part in sorted(need, reverse=True) for name in SPELLINGS[part][:2])
            raise UserError(f"{where} has no {' or '.join(sorted(need, reverse=True))}: name a column {names}; "
                            f"it has {', '.join(map(repr, row)) or 'none'}")  # fmt: skip
    if "tokens" not in found:
        found["tokens"] = found["flops"] / (6 * found["parameters"])
    return {"flops": 6 * found["parameters"] * found["tokens"], **found}


def _number(value: Any, name: str, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 < number < float("inf"):
        raise UserError(f"{where}: {name} is {value!r}; it must be a positive number")
    return number


def _folder(path: Path) -> Sequence[dict[str, float]]:
    """The run of a folder: its last held-out loss, and what had been computed by then."""
    run = config.load(path)
    if not isinstance(run, RunConfig):
        raise UserError(f"{path} is no run: its config.json is a {type(run).__name__}")
    step, loss = 0, 0.0
    metrics = path / "metrics.jsonl"
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines() if metrics.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:  # a last line cut short by a kill
            continue
        if entry.get("eval/loss") is not None and entry.get("step", 0) > 0:
            step, loss = entry["step"], entry["eval/loss"]
    if not step:
        raise UserError(f"{path} has no held-out loss yet (eval/loss in metrics.jsonl): train it with a holdout")
    tokens = step * run.tokens_per_step
    per_token = flops.train_flops(run.model, run.data.T)
    parameters = flops.active_parameters(run.model)
    return [{"parameters": parameters, "tokens": tokens, "flops": per_token * tokens, "loss": loss}]
