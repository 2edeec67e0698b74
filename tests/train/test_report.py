"""What is written down, when, and from which numbers."""

import dataclasses
import json
import math
import time
import types

import numpy as np
import pytest

from jaxlm.data.measures import text_measures
from jaxlm.errors import UserError
from jaxlm.models import flops
from jaxlm.objectives import NextToken
from jaxlm.train import plot
from jaxlm.train import report as room
from jaxlm.train.report import Report
from tests import tiny
from tests.train.runs import numbers

RUN = tiny.run(steps=100, batch=4)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setattr(room.hardware, "matmul_flops", lambda dtype: 1e9)


@pytest.fixture
def start(tmp_path):
    """A function that opens a report in one folder."""

    def make(run=RUN, **options) -> Report:
        batches = types.SimpleNamespace(waited=0.0)
        size = options.pop("bytes_per_token", 1.0)
        return Report(run, tmp_path, batches, lambda sums: text_measures(sums, size), **options)

    return make


def metrics(loss=2.0, skipped=0, nll=None, norm=1.5):
    sums = {"sum/total": 128 * loss, "sum/nll": 128 * (loss if nll is None else nll), "sum/weight": 128}
    values = {"loss": loss, "grad_norm": norm, "learning_rate": 0.5} | sums
    return {name: np.float32(x) for name, x in values.items()} | {"skipped": np.int32(skipped)}


def logged(folder):
    return [line["step"] for line in numbers(folder, "train/")]


def test_a_step_is_logged_when_the_next_is_there(start, tmp_path):
    with start() as report:
        report.step(1, metrics())
        assert logged(tmp_path) == []
        report.step(2, metrics())
        assert logged(tmp_path) == [1]
        report.flush()
        report.flush()
        assert logged(tmp_path) == [1, 2]
        report.step(3, metrics())
        with report.pause():
            assert logged(tmp_path) == [1, 2, 3]


def test_only_every_so_many_and_the_last(start, tmp_path):
    with start(dataclasses.replace(RUN, log_every=3, steps=7)) as report:
        for step in range(1, 8):
            report.step(step, metrics())
        report.flush()
    assert logged(tmp_path) == [3, 6, 7]


def test_the_numbers(start, tmp_path, capsys, monkeypatch):
    """What is shown and drawn is the loss alone, as held-out losses are, also where more is minimised."""
    drawn = {}
    monkeypatch.setattr(plot, "_draw_train", lambda axes, x, y: drawn.update(zip(x, y)) or [y])
    with start(dataclasses.replace(RUN, objective=NextToken(label_smoothing=0.1)), bytes_per_token=4.0) as report:
        report.step(1, metrics(loss=2.5, nll=2.0))
        report.flush()
        report.scores(1, {"loss": 1.0, "perplexity": math.e, "bits_per_byte": 0.4})
    train, heldout = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert "step 1/100, loss 2.000" in capsys.readouterr().out and drawn == {1: 2.0}
    assert train["train/loss"] == 2.0 and train["train/objective"] == 2.5
    assert train["train/grad_norm"] == 1.5 and train["train/learning_rate"] == 0.5
    assert train["train/perplexity"] == pytest.approx(math.exp(2))
    assert train["train/bits_per_byte"] == pytest.approx(2 / math.log(2) / 4)
    assert heldout == {"step": 1, "eval/loss": 1.0, "eval/perplexity": math.e, "eval/bits_per_byte": 0.4}


def test_the_speeds(start, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(room.hardware, "datasheet_flops", lambda: 4e9)
    monkeypatch.setattr(room.jax, "device_count", lambda: 2)
    with start(dataclasses.replace(RUN, log_every=2)) as report:
        for step in (1, 2):
            clock[0] += 1.0
            report.step(step, metrics())
        with report.pause():
            clock[0] += 100.0  # an evaluation is not a step
        report.batches.waited += 0.5
        for step in (3, 4):
            clock[0] += 3.0
            report.step(step, metrics())
        report.flush()
    first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert first["perf/step_seconds"] == 1.0 and first["perf/tokens_per_second"] == 128
    assert second["perf/step_seconds"] == 3.0 and second["perf/tokens_per_second"] == pytest.approx(128 / 3)
    assert second["perf/input_starvation"] == pytest.approx(0.5 / 6)
    rate = 128 / 3 * flops.train_flops(RUN.model, 32) / 2
    assert second["perf/mfu_of_measured_matmul"] == pytest.approx(rate / 1e9)
    assert second["perf/mfu"] == pytest.approx(rate / 4e9)
    assert 0.01 < second["perf/memory_gib"] < 1000


def test_every_key_is_in_the_log_and_in_tensorboard(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    keys = {key for line in lines for key in line} - {"step"}
    assert keys == {
        *("train/loss", "train/perplexity", "train/bits_per_byte", "train/grad_norm", "train/learning_rate"),
        *("train/skipped", "eval/loss", "eval/perplexity", "eval/bits_per_byte", "perf/tokens_per_second"),
        *("perf/step_seconds", "perf/mfu_of_measured_matmul", "perf/input_starvation", "perf/memory_gib"),
    }
    events = b"".join(path.read_bytes() for path in (finished / "tensorboard").iterdir())
    assert [key for key in keys if key.encode() not in events] == []


def test_steps_that_are_not_finite_are_counted(start, tmp_path, capsys):
    bad = metrics(loss=math.nan, skipped=1)
    with start(dataclasses.replace(RUN, max_nonfinite_steps=3), first=10, skipped=5) as report:
        for step, values in enumerate([bad, bad, metrics(), bad, bad], 11):
            report.step(step, values)
        with pytest.raises(
            UserError, match=r"not finite in 3 steps in a row, up to step 16: lower optimizer\.learning"
        ):
            report.step(16, bad)
            report.flush()
    assert [line["train/skipped"] for line in numbers(tmp_path, "train/")] == [6, 7, 7, 8, 9, 10]
    assert numbers(tmp_path)[0]["train/loss"] is None
    assert capsys.readouterr().out.count("is not finite; the weights stay") == 5


def test_samples_are_kept_until_the_step_gone_on_from(start, tmp_path):
    odd = "a\rb\r\nc\x85\u2028\n=== step 9, sample\n\n"
    with start() as report:
        report.samples(3, [odd, "second"])
        before = (tmp_path / "samples.txt").read_bytes()
        report.samples(5, ["later"])
    with open(tmp_path / "samples.txt", "ab") as file:
        file.write(b"=== step 6, sample 0\nkilled while writ\xc3")
    with start(first=4):
        pass
    assert (tmp_path / "samples.txt").read_bytes() == before
    assert before.decode() == f"=== step 3, sample 0\n{odd}\n\n=== step 3, sample 1\nsecond\n\n"
    with start():
        pass
    assert (tmp_path / "samples.txt").read_bytes() == b""


def test_a_writer_that_is_not_there(start):
    with pytest.raises(UserError, match=r'the "wandb" writer needs a package: pip install wandb'):
        start(dataclasses.replace(RUN, writers=("wandb",)))
    with pytest.raises(UserError, match="unknown writer 'tensorbord': did you mean 'tensorboard'"):
        start(dataclasses.replace(RUN, writers=("tensorbord",)))


def test_the_curve_is_drawn_however_it_ends(start, tmp_path):
    with pytest.raises(KeyError), start() as report:
        report.step(1, metrics())
        report.step(2, metrics())
        raise KeyError
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
