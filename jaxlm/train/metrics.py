"""Where the numbers of a run go: a file of JSON lines (the record), TensorBoard, Weights & Biases; same keys in all.

A run that goes on from step s repeats what followed, so writers opened with `resume_step=s` first drop later entries.
"""

import contextlib
import hashlib
import json
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from jaxlm.errors import UserError, unknown
from jaxlm.files import write_file


class Writer(Protocol):
    """One destination. Numbers may be Python's, numpy's or jax's scalars."""

    def write(self, step: int, values: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One JSON object a line, `{"step": 10, "train/loss": 2.5}`, on disk when `write` returns.

    NaN and infinity are written as null, which JSON has. On opening, a last line cut short by a kill is dropped, and
    with `resume_step` the lines of later steps.
    """

    def __init__(self, path: str | Path, resume_step: int | None = None):
        self.path = Path(path)
        _keep_until(self.path, math.inf if resume_step is None else resume_step)
        self._file: TextIO = self.path.open("a", encoding="utf-8")

    def write(self, step: int, values: dict[str, Any]) -> None:
        numbers = {name: _finite(value) for name, value in values.items()}
        try:
            if not self._there():
                new = self.path.open("a", encoding="utf-8")
                self._file.close()
                self._file = new
                warnings.warn(f"{self.path} was removed or replaced: it is written anew from step {step}", stacklevel=2)
            self._file.write(json.dumps({"step": step, **numbers}, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as e:
            raise UserError(f"could not write to {self.path}: {e.strerror}") from None

    def _there(self) -> bool:
        """Whether the file at the path is still the one that is open."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except OSError:
            return False

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what could not be written was told by `write`, and is tried once more
            self._file.close()


class TensorBoard:
    """Event files for `tensorboard --logdir`. A killed run loses the last seconds of them, not of the JSON lines."""

    def __init__(self, folder: str | Path, resume_step: int | None = None, flush_secs: int = 10):
        from tensorboardX import SummaryWriter

        # Within one second two writers would choose the same file name. TensorBoard hides from `purge_step` on.
        self._writer = SummaryWriter(
            str(folder),
            purge_step=None if resume_step is None else resume_step + 1,
            flush_secs=flush_secs,
            filename_suffix=f".{os.getpid()}.{resume_step or 0}",
        )

    def write(self, step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if _finite(value) is not None:
                self._writer.add_scalar(name, float(value), step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """Weights & Biases. Opening the same folder again continues the same W&B run; its server keeps the first values."""

    def __init__(self, folder: str | Path):
        wandb, folder = _wandb(), Path(folder).absolute()
        name = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        try:
            self._run = wandb.init(project="jaxlm", name=folder.name, id=name, resume="allow", dir=str(folder))
        except wandb.Error as e:
            raise UserError(f"wandb did not start: {e}: log in with `wandb login`, or leave that writer out") from None

    def write(self, step: int, values: dict[str, Any]) -> None:
        self._run.log({name: float(value) for name, value in values.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


def writers(names: Sequence[str], folder: str | Path, resume_step: int | None = None) -> list[Writer]:
    """The writers called `names` ("jsonl", "tensorboard", "wandb") for the run in `folder`, which is made.

    `metrics.jsonl` and `tensorboard/` are in it. Raises UserError for an unknown name or a package that is missing.
    """
    folder = Path(folder)
    makers = {
        "jsonl": lambda: JsonLines(folder / "metrics.jsonl", resume_step),
        "tensorboard": lambda: TensorBoard(folder / "tensorboard", resume_step),
        "wandb": lambda: WandB(folder),
    }
    for name in names:
        if name not in makers:
            raise unknown("writer", name, makers)
    if "wandb" in names:
        _wandb()  # where it is missing, nothing is written
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [makers[name]() for name in names]
    except OSError as e:
        raise UserError(f"cannot write the logs: {e.filename or folder}: {e.strerror}") from None


def _wandb() -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError('the "wandb" writer needs a package: pip install wandb, or leave it out') from None
    return wandb


def _finite(value: Any) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None


def _keep_until(path: Path, last: float) -> None:
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and _step(line) <= last]
    if kept != lines:
        write_file(path, "".join(kept).encode())


def _step(line: str) -> float:
    """The step of a line; NaN, which no step reaches, for one that is damaged."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.nan
