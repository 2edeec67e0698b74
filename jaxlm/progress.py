"""How far a long job is: a live bar on a terminal, plain lines now and then everywhere else.

with Progress(1000, "tiny") as progress:
    for step in range(1, 1001):
        progress.update(step, tokens=8192, loss="3.214")

tiny: step 120/1000, loss 3.214, 12.3 steps/s, 101k tokens/s, 01:12 left
"""

import contextlib
import datetime
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

MARK = 0.25  # seconds between two measurements of the rate, of which the last 40 count
DRAW = 0.1  # seconds between two changes of the bar
BAR = 14  # columns of a terminal that the words leave to the bar


class Progress:
    """Counts to `total` (None: unknown) in `unit`s; use it in a `with` statement.

    Off a terminal the first update, one every `interval` seconds and the last are printed as a line.
    """

    def __init__(
        self,
        total: int | None,
        description: str,
        unit: str = "step",
        interval: float = 10.0,
        console: Console | None = None,
    ):
        self.total, self.description, self.unit = total, description, unit
        # Not rich's own guess, which FORCE_COLOR, common in CI, turns into a yes.
        console = console or Console(force_terminal=sys.stdout.isatty())
        self._console, self._interval = console, interval
        self._bar: Bar | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            columns = TextColumn("{task.description}", markup=False), BarColumn(bar_width=None)
            details = TextColumn("{task.fields[details]}", markup=False)
            self._bar = Bar(*columns, details, console=console, expand=True, refresh_per_second=5)
            self._task = self._bar.add_task(description, total=total, details="")
        self._marks: deque[tuple[float, int]] = deque(maxlen=40)
        self._step, self._tokens, self._shown = 0, 0, {}
        self._drawn, self._told = -float("inf"), False

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._marks and not self._told:
            self._tell()
        if self._bar:
            self._bar.stop()

    def update(self, step: int, tokens: int = 0, **shown: str | float) -> None:
        """`step` of `total` is done, with `tokens` in every step; `shown` stands in the line. Cheap: call it often."""
        now = time.monotonic()
        self._step, self._tokens, self._shown, self._told = step, tokens, shown, False
        last = step == self.total
        if last or not self._marks or now - self._marks[-1][0] >= MARK:
            self._marks.append((now, step))
        if last or now - self._drawn >= (DRAW if self._bar else self._interval):
            self._drawn = now
            self._tell()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Time spent within counts neither for the rate nor for what is left."""
        start = time.monotonic()
        yield
        away = time.monotonic() - start
        self._marks = deque(((then + away, step) for then, step in self._marks), self._marks.maxlen)

    def print(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self._bar:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self._console.file.write(text + "\n")
            self._console.file.flush()

    def _tell(self) -> None:
        self._told = True
        if self._bar is None:
            self.print(f"{self.description}: {', '.join(self._parts().values())}")
            return
        parts, name, room = self._parts(), self.description, self._console.width - BAR
        for less in (
            "steps",
            *reversed(list(self._shown)[1:]),
            "tokens",
            "left",
        ):  # what a narrow terminal goes without
            if len(", ".join(parts.values())) + len(name) <= room:
                break
            name = ""
            if len(", ".join(parts.values())) > room:
                parts.pop(less, None)
        self._bar.update(self._task, completed=self._step, description=name, details=", ".join(parts.values()))

    def _parts(self) -> dict[str, str]:
        number = str if self.unit == "step" else scaled
        of = "" if self.total is None else f"/{number(self.total)}"
        parts = {"count": f"{self.unit} {number(self._step)}{of}"}
        parts |= {name: f"{name} {value}" for name, value in self._shown.items()}
        (then, before), (now, step) = self._marks[0], self._marks[-1]
        rate = (step - before) / (now - then) if now > then else 0.0
        if rate > 0:
            one = self.unit.split()[0].removesuffix("s")
            parts["steps"] = f"{scaled(rate)} {one}s/s" if rate >= 1 else f"{scaled(1 / rate)} s/{one}"
            if self._tokens:
                parts["tokens"] = f"{scaled(rate * self._tokens)} tokens/s"
            if self.total is not None and self._step < self.total:
                left = datetime.timedelta(seconds=round((self.total - self._step) / rate))
                parts["left"] = f"{str(left).removeprefix('0:')} left"
        return parts


@contextlib.contextmanager
def show_preparation(description: str = "preparing data") -> Iterator[Callable[[int, int | None, str], None]]:
    """A function of (done, total or None, unit) that shows how far a preparation is: one bar after the other."""
    with contextlib.ExitStack() as stack:
        current: Progress | None = None

        def progress(done: int, total: int | None, unit: str) -> None:
            nonlocal current
            if current is None or (current.total, current.unit) != (total, unit):
                stack.close()
                current = stack.enter_context(Progress(total, description, unit))
            current.update(done)

        yield progress


def scaled(number: float) -> str:
    """Three significant digits and a letter: 12.3, 456, 7.89k, 1.2M, 3G."""
    for letter in ("", "k", "M", "G", "T"):
        if number < 999.5 or letter == "T":
            break
        number /= 1000
    digits = f"{number:.0f}" if number >= 99.95 else f"{number:.3g}"
    return digits + letter
