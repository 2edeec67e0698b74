import io
import re
import signal

import pytest
from rich.console import Console

from jaxlm import progress as module
from jaxlm.progress import Progress, scaled, show_preparation


class Clock:
    """Time that passes when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock)
    return clock


def terminal(width: int) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, legacy_windows=False, _environ={})


def screens(console: Console) -> list[str]:
    """What was drawn, without the codes that move the cursor and choose colours."""
    assert isinstance(console.file, io.StringIO)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def run(progress: Progress, clock: Clock, seconds: float = 0.5, steps: int = 100) -> None:
    with progress:
        for step in range(1, steps + 1):
            clock.now += seconds
            progress.update(step, tokens=8192, loss=f"{400 / step:.3f}")


def test_lines_where_there_is_no_terminal(clock, capsys):
    run(Progress(100, "tiny", interval=20.0), clock)
    assert capsys.readouterr().out.splitlines() == [
        "tiny: step 1/100, loss 400.000",
        "tiny: step 41/100, loss 9.756, 2 steps/s, 16.4k tokens/s, 00:30 left",
        "tiny: step 81/100, loss 4.938, 2 steps/s, 16.4k tokens/s, 00:10 left",
        "tiny: step 100/100, loss 4.000, 2 steps/s, 16.4k tokens/s",
    ]


def test_force_color_makes_no_terminal(clock, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    run(Progress(100, "tiny"), clock)
    assert "\x1b" not in capsys.readouterr().out


def test_the_last_update_is_always_told(clock, capsys):
    with pytest.raises(KeyboardInterrupt), Progress(None, "reading", "bytes read") as progress:
        for done in (0, 5_000_000, 12_300_000):
            clock.now += 1
            progress.update(done)
        progress.print("a [bold]line[/bold]")
        raise KeyboardInterrupt
    assert capsys.readouterr().out.splitlines() == [
        "reading: bytes read 0",
        "a [bold]line[/bold]",
        "reading: bytes read 12.3M, 6.15M bytes/s",
    ]


def test_slow_steps_count_in_seconds(clock, capsys):
    run(Progress(4000, "big"), clock, seconds=8.0, steps=3)
    assert "0.125" not in (line := capsys.readouterr().out.splitlines()[-1])
    assert line == "big: step 3/4000, loss 133.333, 8 s/step, 1.02k tokens/s, 8:52:56 left"


def test_the_rate_forgets_the_slow_start(clock, capsys):
    with Progress(1000, "tiny") as progress:
        progress.update(1)
        clock.now += 60  # compilation of something
        for step in range(2, 1001):
            clock.now += 0.25
            progress.update(step)
    assert capsys.readouterr().out.splitlines()[-1] == "tiny: step 1000/1000, 4 steps/s"


@pytest.mark.parametrize(
    "width, words",
    [
        (120, "quickstart {} step 100/100, loss 4.000, 2 steps/s, 16.4k tokens/s"),
        (60, "{} step 100/100, loss 4.000, 16.4k tokens/s"),
        (40, "{} step 100/100, loss 4.000"),
    ],
)
def test_the_bar_fits_its_terminal(clock, width, words):
    console = terminal(width)
    run(Progress(100, "quickstart", console=console), clock)
    last = re.sub("━+", "{}", screens(console)[-1]).strip()
    assert last == words
    assert all(len(line) <= width for line in screens(console))


def test_print_stands_above_the_bar(clock):
    console = terminal(80)
    with Progress(10, "tiny", console=console) as progress:
        for step in range(1, 11):
            clock.now += 1
            progress.update(step)
            if step == 5:
                progress.print("step 5: [held-out] 3.2 " + "x" * 100)
    lines = screens(console)
    assert "step 5: [held-out] 3.2 " + "x" * 100 in lines
    assert "step 10/10" in lines[-1]


def test_an_exception_gives_the_cursor_back(clock, heard):
    console = terminal(80)
    with pytest.raises(KeyboardInterrupt), Progress(10, "tiny", console=console) as progress:
        progress.update(1)
        signal.raise_signal(signal.SIGINT)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().rstrip("\n").endswith("\x1b[?25h")


def test_preparation_shows_one_job_after_the_other(clock, capsys):
    with show_preparation() as progress:
        for unit in ("bytes hashed", "bytes read"):
            for done in range(0, 5):
                clock.now += 1
                progress(done * 1_000_000, 4_000_000, unit)
    assert capsys.readouterr().out.splitlines() == [
        "preparing data: bytes hashed 0/4M",
        "preparing data: bytes hashed 4M/4M, 1M bytes/s",
        "preparing data: bytes read 0/4M",
        "preparing data: bytes read 4M/4M, 1M bytes/s",
    ]


def test_scaled():
    numbers = (0.1234, 1, 9.999, 12.34, 99.96, 123.4, 999, 999.6, 1234, 123456, 999999, 3e9, 5e15)
    assert [scaled(x) for x in numbers] == (
        ["0.123", "1", "10", "12.3", "100", "123", "999", "1k", "1.23k", "123k", "1M", "3G", "5000T"]
    )


def test_pauses_count_neither_for_the_rate_nor_for_what_is_left(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    progress = module.Progress(100, "x", interval=1e9)
    for step in range(1, 6):
        clock[0] += 1.0
        progress.update(step)
        with progress.pause():
            clock[0] += 50.0
    assert progress._parts()["steps"] == "1 steps/s" and progress._parts()["left"].endswith("1:35 left")
