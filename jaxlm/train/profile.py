"""A window of steps recorded by the JAX profiler, to open in TensorBoard, XProf or Perfetto."""

import contextlib
from pathlib import Path
from typing import Any, Self

import jax


class Profiler:
    """Records the `steps` steps from step `at` on into `folder`; never where `at` is 0."""

    def __init__(self, folder: Path, at: int, steps: int):
        self.folder, self.first, self.last = folder, at, at + steps - 1
        self.running = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.running:
            jax.profiler.stop_trace()

    def step(self, number: int) -> contextlib.AbstractContextManager:
        """The context of one step."""
        if self.running and number > self.last:
            jax.profiler.stop_trace()
            self.running = False
        if self.first and number == self.first:
            jax.profiler.start_trace(str(self.folder))
            self.running = True
        return jax.profiler.StepTraceAnnotation("train", step_num=number)
