"""A run that was killed or stopped, wherever, ends as the run that was not: every number, every bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxlm import config
from tests import tiny
from tests.train.runs import digests, numbers


def jaxlm(folder: Path, moments: list[str], *argv: str) -> tuple[list[int], list[str]]:
    """Exit codes and outputs of the processes that `killed.py` starts, on one device."""
    folder.mkdir()
    script = Path(__file__).with_name("killed.py")
    command = [sys.executable, "-W", "error", str(script), str(folder), *moments, "--", *argv]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and not done.stderr, done.stderr
    codes = [int(code) for code in done.stdout.strip()[1:-1].split(",")]
    return codes, [(folder / f"{i}.txt").read_text() for i in range(len(codes))]


@pytest.fixture(scope="module")
def saved_config(tmp_path_factory) -> Path:
    """With everything in it that a step depends on: dropout, a moving average, parts of a batch, two sources."""
    folder = tmp_path_factory.mktemp("config")
    text = tiny.write_text(folder / "text")
    run = tiny.run(text, steps=10, model=tiny.model(dropout=0.1), ema=0.9, accumulate=2)
    config.save(run, folder / "tiny.json")
    return folder / "tiny.json"


@pytest.fixture(scope="module")
def uninterrupted(saved_config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    codes, (output,) = jaxlm(folder / "out", [], "train", str(saved_config), "--run", str(folder / "run"))
    assert codes == [0], output
    return folder / "run"


def test_killed_and_stopped_at_any_moment(saved_config, uninterrupted, tmp_path):
    moments = {
        "KILL:soon:0": -9,
        "KILL:step:3": -9,
        "KILL:save:4": -9,
        "TERM:step:5": 0,
        "KILL:eval:6": -9,
        "INT:step:7": 0,
        "KILL:sample:9": -9,
    }
    run = tmp_path / "run"
    codes, outputs = jaxlm(tmp_path / "out", list(moments), "train", str(saved_config), "--run", str(run))
    assert codes == [*moments.values(), 0], "\n".join(outputs)
    assert [line for line in outputs[3].splitlines() if "SIG" in line] == [
        "SIGTERM: saved step 5 and stopped; run it again to go on"
    ]
    assert f"{run}: at step 5 of 10" in outputs[4].splitlines()
    assert "SIGINT: saved step 7 and stopped" in outputs[5]
    assert "Traceback" not in "".join(outputs)
    assert numbers(run) == numbers(uninterrupted)
    assert digests(run) == digests(uninterrupted)
    assert (run / "samples.txt").read_bytes() == (uninterrupted / "samples.txt").read_bytes()
    assert outputs[-1].splitlines()[-5:] == jaxlm_table(uninterrupted)


def jaxlm_table(folder: Path) -> list[str]:
    return (folder.parent / "out" / "0.txt").read_text().splitlines()[-5:]
