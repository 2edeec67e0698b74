"""What a run tells while it goes: bar, log, samples, loss curve. Nothing here makes a device wait."""

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import jax

from jaxlm.axes import Array
from jaxlm.checkpoints.checkpoint import steps
from jaxlm.data.loader import TrainBatches
from jaxlm.data.measures import spell
from jaxlm.errors import UserError
from jaxlm.files import write_file
from jaxlm.machine import hardware
from jaxlm.progress import Progress
from jaxlm.run import RunConfig
from jaxlm.train.metrics import writers
from jaxlm.train.plot import plot_losses
from jaxlm.train.step import SUM


class Report:
    """Everything that a run writes down. Metrics of a step are fetched when the next one is under way.

    `first` is the step that the run goes on from, `skipped` the number of steps that were not finite until then;
    `settle` waits for the checkpoint that is being written.
    """

    def __init__(
        self,
        run: RunConfig,
        folder: Path,
        batches: TrainBatches,
        measures: Callable[[Mapping[str, float]], dict[str, float]],
        first: int = 0,
        skipped: int = 0,
        settle: Callable[[], object] = lambda: None,
    ):
        self.settle = settle
        self.run, self.folder, self.batches, self.measures = run, folder, batches, measures
        self.main = jax.process_index() == 0
        self.pending: tuple[int, dict[str, Array]] | None = None
        self.skipped, self.in_a_row = skipped, 0
        self.shown: dict[str, str] = {}
        self.datasheet, self.matmul = hardware.datasheet_flops(), hardware.matmul_flops(run.model.dtype)
        if self.main:
            try:
                _keep_samples(folder / "samples.txt", first)
            except OSError as e:
                raise UserError(f"cannot go on with {folder / 'samples.txt'}: {e.strerror}: move it away") from None
        self.writers = writers(run.writers, folder, resume_step=first) if self.main else []
        self.progress = Progress(run.steps, folder.name)
        self.paused = 0.0
        self.mark = (first, time.perf_counter(), batches.waited)

    def __enter__(self) -> Self:
        self.progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.progress.__exit__(*error)
        for writer in self.writers:
            with self._going_on(self.folder):
                writer.close()
        if self.main:
            with self._going_on(self.folder / "loss.png") as path:
                plot_losses(self.folder / "metrics.jsonl", path)

    @contextlib.contextmanager
    def _going_on(self, path: Path) -> Iterator[Path]:
        """What is written within is worth a line where it fails, but not the end of the run."""
        try:
            yield path
        except OSError as e:
            self.print(f"could not write {e.filename or path}: {e.strerror}; the run goes on")
        except UserError as e:
            self.print(f"{str(e).replace('cannot', 'could not', 1)}; the run goes on")

    def step(self, number: int, metrics: dict[str, Array]) -> None:
        """Takes the metrics of a step just dispatched, and logs those of the step before."""
        self.flush()
        self.pending = number, metrics

    def flush(self) -> None:
        """Logs the newest step. Raises UserError when too many in a row were not finite."""
        if self.pending is None:
            return
        number, metrics = self.pending[0], {name: float(x) for name, x in jax.device_get(self.pending[1]).items()}
        self.pending = None
        self._count(number, bool(metrics["skipped"]))
        sums = {name.removeprefix(SUM): x for name, x in metrics.items() if name.startswith(SUM)}
        measured = self.measures(sums)
        self.shown["loss"] = f"{measured['loss']:.3f}"
        self.progress.update(number, tokens=self.run.tokens_per_step, **self.shown)
        if number % self.run.log_every == 0 or number == self.run.steps:
            self._write(number, self._train_values(metrics, measured) | self._speed(number))
        if self.in_a_row >= self.run.max_nonfinite_steps:
            raise self._stop(number)

    def scores(self, number: int, scores: dict[str, float]) -> None:
        """Logs the held-out scores of a step."""
        self._write(number, {f"eval/{name}": value for name, value in scores.items()})
        self.progress.print(f"step {number}: held-out {spell(scores)}")
        self.shown["held-out"] = f"{scores['loss']:.3f}"

    def samples(self, number: int, texts: list[str]) -> None:
        """Appends to `samples.txt` and shows the first."""
        if self.main:
            with (
                self._going_on(self.folder / "samples.txt") as path,
                open(path, "a", encoding="utf-8", newline="") as file,
            ):
                file.writelines(f"=== step {number}, sample {i}\n{text}\n\n" for i, text in enumerate(texts))
        self.progress.print(f"step {number} writes: {texts[0][:200]!r}")

    def print(self, text: str) -> None:
        self.progress.print(text)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time spent within does not count as the steps'; waits for the step under way, which does."""
        self.flush()
        start = time.perf_counter()
        with self.progress.pause():
            yield
        self.paused += time.perf_counter() - start

    def _count(self, number: int, skipped: bool) -> None:
        self.skipped += skipped
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        if skipped:
            self.print(f"step {number}: loss or gradient is not finite; the weights stay as they were")

    def sound(self, number: int, scores: dict[str, float] | None) -> bool:
        """Whether a flushed step may be saved: it was finite itself, or is the last and its held-out loss is finite."""
        last = number == self.run.steps and scores is not None and math.isfinite(scores["loss"])
        return not self.in_a_row or last

    def not_saved(self, number: int) -> None:
        self.print(f"step {number} is not saved: its loss, gradient, weights or moments are not finite")

    def _way_back(self, number: int) -> str:
        """From which checkpoint a run goes on that does not get past these weights; they may be the newest one's."""
        self.settle()
        saved, weights = steps(self.folder / "checkpoints"), number - self.in_a_row
        same, older = [s for s in saved if s >= weights], [s for s in saved if s < weights]
        if not older:
            return "and begin again in another folder with --run: there is no checkpoint of other weights"
        if not same:
            return f"the same folder then goes on from step {older[-1]}"
        these = ", ".join(map(str, same))
        return f"and remove checkpoints/{these}, which has these weights: the run then goes on from step {older[-1]}"

    def _stop(self, number: int) -> UserError:
        config = self.run.optimizer
        return UserError(
            f"loss or gradient was not finite in {self.in_a_row} steps in a row, up to step {number}: lower "
            f"optimizer.learning_rate ({config.learning_rate:g}) or optimizer.clip ({config.clip}), or raise "
            f"optimizer.warmup ({config.warmup}); {self._way_back(number)}"
        )

    def _train_values(self, metrics: dict[str, float], measured: dict[str, float]) -> dict[str, float]:
        """`measured` as held-out losses are."""
        return {
            **{f"train/{name}": value for name, value in measured.items()},
            **({"train/objective": metrics["loss"]} if self.run.adds else {}),
            "train/grad_norm": metrics["grad_norm"],
            "train/learning_rate": metrics["learning_rate"],
            "train/skipped": self.skipped,
            **{f"train/{name}": metrics[name] for name in ("max_load", "dropped") if name in metrics},
        }

    def _speed(self, number: int) -> dict[str, float]:
        now, (since, then, waited) = time.perf_counter() - self.paused, self.mark
        seconds = max(now - then, 1e-9)
        self.mark = (number, now, self.batches.waited)
        tokens = (number - since) * self.run.tokens_per_step / seconds
        rate = tokens * self.run.flops_per_token / jax.device_count()
        values = {
            "perf/tokens_per_second": tokens,
            "perf/step_seconds": seconds / max(number - since, 1),
            "perf/mfu_of_measured_matmul": rate / self.matmul,
            "perf/input_starvation": (self.mark[2] - waited) / seconds,
            "perf/memory_gib": hardware.memory_used() / 2**30,
        }
        if self.datasheet:
            values["perf/mfu"] = rate / self.datasheet
        return values

    def _write(self, number: int, values: dict[str, float]) -> None:
        for writer in self.writers:
            writer.write(number, values)


def _keep_samples(path: Path, step: int) -> None:
    """Drops what was sampled after `step`, which the run is about to repeat."""
    if path.exists():
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            parts = re.split(r"(?m)^(?==== step \d+, sample \d+$)", file.read())
        kept = [p for p in parts if (m := re.match(r"=== step (\d+),", p)) is None or int(m[1]) <= step]
        write_file(path, "".join(kept).encode())
