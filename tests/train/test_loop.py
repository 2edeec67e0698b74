"""What `train` leaves, what it does when there is something already, and what stops it."""

import contextlib
import dataclasses
import shutil
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxlm import cli, config, load_tokenizer, optim
from jaxlm.checkpoints.checkpoint import steps
from jaxlm.data import DataConfig, Source
from jaxlm.errors import UserError
from jaxlm.sharding import MeshConfig
from jaxlm.train import loop
from jaxlm.train.report import Report
from tests import tiny
from tests.train.runs import digests, numbers, stop_at

pytestmark = pytest.mark.usefixtures("one_device")


def everything(folder: Path) -> dict[str, bytes]:
    skip = ("tensorboard", ".lock", "loss.png")
    files = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith(skip)}


def test_what_a_run_leaves(finished, run):
    assert config.load(finished) == run
    assert load_tokenizer(finished).V == 257
    assert steps(finished / "checkpoints") == [6, 8]  # the newest two, one of which is the best
    assert (finished / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert [line["step"] for line in numbers(finished, "train/")] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [line["step"] for line in numbers(finished, "eval/")] == [3, 6, 8]
    samples = (finished / "samples.txt").read_text()
    assert [f"=== step {step}, sample 0\n" in samples for step in (3, 6, 8)] == [True] * 3
    assert not (finished / "profile").exists()


def test_it_learns(finished, run):
    losses = [line["train/loss"] for line in numbers(finished, "train/")]
    assert abs(losses[0] - np.log(run.model.V)) < 0.3
    assert losses[-1] < losses[0] - 1
    rates = [line["train/learning_rate"] for line in numbers(finished, "train/")]
    np.testing.assert_allclose(rates, [optim.schedule(run.optimizer, 8)(step) for step in range(8)], rtol=1e-5)


def test_a_finished_run_says_so_and_stays(copy, run, capsys):
    before = everything(copy)
    loop.train(run, copy)
    assert f"{copy}: at step 8 of 8: nothing is left to do; raise steps" in capsys.readouterr().out
    assert everything(copy) == before


def test_more_steps_and_other_reports_go_on(copy, run, capsys):
    more = dataclasses.replace(run, steps=9, log_every=2, save_every=0, writers=("jsonl",), prompts=())
    loop.train(more, copy)
    out = capsys.readouterr().out
    assert f"{copy}: at step 8 of 9\n" in out and "this model" in out.splitlines()[-1]
    assert config.load(copy) == more
    assert [line["step"] for line in numbers(copy, "train/")] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert steps(copy / "checkpoints") == [8, 9]


def test_stopped_and_gone_on_with_another_mesh(finished, run, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        loop.train(run, folder)
    assert "SIGTERM: saved step 4 and stopped" in capsys.readouterr().out
    assert steps(folder / "checkpoints")[-1] == 4
    loop.train(dataclasses.replace(run, mesh=MeshConfig(data=2, fsdp=2, tensor=2)), folder)
    ours, theirs = numbers(folder), numbers(finished)
    assert ours[:5] == theirs[:5]  # before: the same bits
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose([a[k] for k in a], [b[k] for k in a], rtol=1e-5, atol=1e-5)


def test_damage_costs_the_steps_since_the_last_whole_checkpoint(copy, finished, run, capsys):
    """A foreign folder, a half-deleted step, a flipped bit and a truncated file, the newest first; step 6 is whole."""
    folder = copy / "checkpoints"
    shutil.copytree(folder / "8", folder / "9")
    shutil.copytree(folder / "6", folder / "7")
    (folder / "99").mkdir()
    shutil.rmtree(next((folder / "9").glob("*/d")))
    data = {step: max((folder / step).rglob("d/*"), key=lambda p: p.stat().st_size) for step in ("7", "8")}
    content = bytearray(data["8"].read_bytes())
    content[len(content) // 2] ^= 4
    data["8"].write_bytes(content)
    data["7"].write_bytes(content[: len(content) // 3])
    loop.train(run, copy)
    out = capsys.readouterr().out
    assert [f"checkpoint {step} is passed over" in out for step in (99, 9, 8, 7, 6)] == [True] * 4 + [False]
    assert f"{copy}: at step 6 of 8" in out
    assert numbers(copy) == numbers(finished)
    assert digests(copy) == digests(finished)
    assert (copy / "samples.txt").read_bytes() == (finished / "samples.txt").read_bytes()


def test_nothing_waits_for_the_newest_step(run, tmp_path, monkeypatch):
    """What is fetched of a step is fetched when the next is under way, unless the step is saved or evaluated."""
    events, compile_step, get = [], loop.compile_step, jax.device_get

    def compiled(setup):
        step = compile_step(setup)

        def dispatch(state, batch, frozen):
            state, metrics = step(state, batch, frozen)
            events.append(("dispatch", len([e for e in events if e[0] == "dispatch"]) + 1))
            names[id(metrics["loss"])] = events[-1][1]
            kept.append(metrics)
            return state, metrics

        return dispatch

    def fetch(tree):
        if isinstance(tree, dict) and id(tree.get("loss")) in names:
            events.append(("fetch", names[id(tree["loss"])]))
        return get(tree)

    names, kept = {}, []
    monkeypatch.setattr(loop, "compile_step", compiled)
    monkeypatch.setattr(jax, "device_get", fetch)
    loop.train(dataclasses.replace(run, eval_every=6, save_every=4, prompts=()), tmp_path / "run")
    assert " ".join(f"{name[0]}{step}" for name, step in events) == "d1 d2 f1 d3 f2 d4 f3 f4 d5 d6 f5 f6 d7 d8 f7 f8"


def diverging(run, **changes):
    optimizer = dataclasses.replace(run.optimizer, learning_rate=1e30, warmup=0)
    return dataclasses.replace(run, optimizer=optimizer, prompts=(), **changes)


def test_steps_that_are_not_finite_stop_the_run(run, tmp_path, capsys):
    folder = tmp_path / "run"
    with pytest.raises(
        UserError, match=r"not finite in 3 steps in a row, up to step 4: lower .*learning_rate \(1e\+30\)"
    ):
        loop.train(diverging(run, max_nonfinite_steps=3, save_every=1), folder)
    assert capsys.readouterr().out.count("the weights stay as they were") == 3
    assert [line["train/skipped"] for line in numbers(folder, "train/")] == [0, 1, 2, 3]
    assert steps(folder / "checkpoints") == [1]  # none of the streak, which would replace good ones


def test_the_way_back_from_a_streak_works(run, tmp_path, monkeypatch):
    """The newest checkpoint may have the weights that gave the streak: that one is named, the one before good."""
    folder, plain = tmp_path / "run", loop.place
    run = dataclasses.replace(run, max_nonfinite_steps=2, save_every=1, eval_every=0, prompts=(), max_to_keep=2)

    def broken(batch, spec, mesh, parts=None):
        calls.append(1)
        bad = parts is not None and len(calls) > 3
        return plain(batch | {"weights": batch["weights"] * np.float32("nan")} if bad else batch, spec, mesh, parts)

    calls: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(loop, "place", broken)
        with pytest.raises(UserError, match=r"remove checkpoints/3, which has these weights: .* from step 2$"):
            loop.train(run, folder)
    assert steps(folder / "checkpoints") == [2, 3]
    shutil.rmtree(folder / "checkpoints" / "3")
    optimizer = dataclasses.replace(run.optimizer, learning_rate=1e-4)
    loop.train(dataclasses.replace(run, optimizer=optimizer), folder)
    assert steps(folder / "checkpoints")[-1] == run.steps


def test_parts_of_a_batch_may_change(copy, run):
    """What to do about too little memory, said when a step does not fit."""
    parts = dataclasses.replace(
        run, steps=9, accumulate=2, model=dataclasses.replace(run.model, remat="full"), prompts=()
    )
    loop.train(parts, copy)
    assert steps(copy / "checkpoints") == [8, 9]


@pytest.mark.parametrize("gone", ["metrics.jsonl", "loss.png", "samples.txt", "tensorboard", "config.json"])
def test_what_is_removed_or_in_the_way_meanwhile(gone, copy, run, monkeypatch):
    plain = Report.step

    def patched(self, number, metrics):
        plain(self, number, metrics)
        if number == 9 and (copy / gone).is_dir():
            shutil.rmtree(copy / gone)
        elif number == 9:
            (copy / gone).unlink()
            if gone in ("loss.png", "samples.txt"):
                (copy / gone).mkdir()

    monkeypatch.setattr(Report, "step", patched)
    more = dataclasses.replace(run, steps=10)
    with (
        pytest.warns(UserWarning, match="removed or replaced") if gone == "metrics.jsonl" else contextlib.nullcontext()
    ):
        loop.train(more, copy)
    assert steps(copy / "checkpoints")[-1] == 10
    assert config.load(copy) == more
    if gone == "metrics.jsonl":
        assert [line["step"] for line in numbers(copy, "train/")] == [9, 10]


@pytest.mark.parametrize("gone", [".", "checkpoints"])
def test_a_folder_removed_meanwhile_is_one_line(gone, copy, run, monkeypatch):
    plain = Report.step

    def patched(self, number, metrics):
        plain(self, number, metrics)
        if number == 9:
            shutil.rmtree(copy / gone)
            (copy / gone).write_text("a file")

    monkeypatch.setattr(Report, "step", patched)
    with pytest.raises(UserError) as caught:
        loop.train(dataclasses.replace(run, steps=10, prompts=()), copy)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_after_a_few_the_run_goes_on(run, tmp_path, monkeypatch):
    """Two bad batches: counted, over a stop too, and the weights of the end are finite."""
    place, bad = loop.place, iter([False, True, False, True] + 4 * [False])

    def poisoned(batch, spec, mesh, parts=None):
        if parts is not None and next(bad):
            batch = batch | {"weights": batch["weights"] * np.float32("inf")}
        return place(batch, spec, mesh, parts)

    monkeypatch.setattr(loop, "place", poisoned)
    folder, run = tmp_path / "run", dataclasses.replace(run, max_nonfinite_steps=2, prompts=())
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        loop.train(run, folder)
    loop.train(run, folder)
    assert [line["train/skipped"] for line in numbers(folder, "train/")] == [0, 1, 1, 2, 2, 2, 2, 2]
    assert np.isfinite([line["eval/loss"] for line in numbers(folder, "eval/")]).all()


REFUSED = [
    ({"data": DataConfig((Source("gone.txt"),), T=32)}, "gone.txt: no such file"),
    ({"model": tiny.model(V=200)}, r"the tokenizer has 257 tokens, the model only V=200"),
    ({"writers": ("jsonl", "tensorbord")}, "unknown writer"),
    ({"writers": ("jsonl", "wandb")}, "needs a package"),
]


@pytest.mark.parametrize(("change", "says"), REFUSED, ids=["data", "tokenizer", "writer", "package"])
def test_a_start_that_is_refused_leaves_nothing(run, tmp_path, monkeypatch, change, says):
    """Also not `runs/`, if that was made; a folder that was there stays."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    mine = tmp_path / "mine"
    mine.mkdir()
    for folder in (tmp_path / "runs" / "name", mine):
        with pytest.raises(UserError, match=says):
            loop.train(dataclasses.replace(run, **change), folder)
    assert list(tmp_path.iterdir()) == [mine]


def test_ctrl_c_before_the_first_step_leaves_nothing(heard, text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "compile_step", lambda *_: signal.raise_signal(signal.SIGINT))
    config.save(tiny.run(text), tmp_path / "tiny.json")
    assert cli.main(["train", str(tmp_path / "tiny.json"), "--run", str(tmp_path / "runs" / "name")]) == 130
    assert capsys.readouterr().err == ""
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.json"]
