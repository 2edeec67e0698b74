"""Whose folder it is."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from jaxlm import config
from jaxlm.data import Source
from jaxlm.errors import UserError
from jaxlm.nn import LearnedConfig
from jaxlm.sharding import MeshConfig
from jaxlm.text import ByteTokenizer, load_tokenizer
from jaxlm.train.folder import check_tokenizer, claim, open_run
from tests import tiny


def opens(run, folder) -> None:
    with open_run(run, folder):
        pass


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(path.name)], ids=["folder", "loop"])
def test_a_lock_that_cannot_be_written_is_one_line(tmp_path, make):
    make(tmp_path / ".lock")
    with pytest.raises(UserError, match=f"cannot use the run folder {tmp_path}: .*: choose another"):
        opens(tiny.run(), tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 100},
        {"mesh": MeshConfig(data=2, fsdp=4)},
        {"log_every": 5, "max_to_keep": 1, "max_nonfinite_steps": 1, "prompts": ("a", "b"), "writers": ()},
        {"eval_every": 0, "eval_batches": 3, "save_every": 9, "sample_every": 1, "sample_tokens": 2},
        {"profile_at": 3, "profile_steps": 1},
        {"model": tiny.model(dropout=0.1, remat="full")},
    ],
    ids=str,
)
def test_what_may_change(finished, run, change):
    opens(dataclasses.replace(run, **change), finished)


def test_data_may_move_and_learning_may_be_mended(finished, run):
    data = dataclasses.replace(run.data, sources=(Source("/elsewhere"),), cache="/other")
    optimizer = dataclasses.replace(run.optimizer, learning_rate=1e-4, warmup=0, clip=0.5)
    opens(dataclasses.replace(run, data=data, optimizer=optimizer), finished)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"batch": 8}, r"batch: 4 -> 8\)"),
        ({"seed": 1}, r"seed: 0 -> 1\)"),
        ({"model": tiny.model(D=64)}, r"model.D: 32 -> 64 and 1 more\)"),
        ({"ema": 0.0}, r"ema: 0.9 -> 0.0\)"),
    ],
    ids=["batch", "seed", "model", "ema"],
)
def test_what_may_not(finished, run, change, line):
    with pytest.raises(UserError, match=rf"{finished} holds a run of another config \({line}: choose another folder"):
        opens(dataclasses.replace(run, **change), finished)


def test_the_length_of_rows_may_not_change(finished, run):
    with pytest.raises(UserError, match=r"data.T: 32 -> 16"):
        opens(dataclasses.replace(run, data=dataclasses.replace(run.data, T=16)), finished)


def test_without_a_checkpoint_there_is_nothing_to_lose(copy, run):
    shutil.rmtree(copy / "checkpoints")
    opens(dataclasses.replace(run, seed=5), copy)


def test_checkpoints_of_nobody(copy, run):
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match="has checkpoints but no config"):
        opens(run, copy)


def test_a_config_that_cannot_be_read(copy, run):
    (copy / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json is not valid JSON"):
        opens(run, copy)


def test_one_process_at_a_time(run, tmp_path):
    with (
        open_run(run, tmp_path / "run"),
        pytest.raises(UserError, match=f"another process trains in {tmp_path / 'run'}"),
    ):
        opens(run, tmp_path / "run")
    opens(run, tmp_path / "run")


def test_claimed(run, tmp_path):
    with open_run(run, tmp_path / "deep" / "run") as folder:
        assert not (folder / "config.json").exists()
        claim(run, folder, ByteTokenizer())
        assert config.load(folder) == run and load_tokenizer(folder).V == 257


def test_every_token_needs_a_row(run):
    check_tokenizer(dataclasses.replace(run, model=tiny.model(V=257)), ByteTokenizer())
    with pytest.raises(UserError, match=r"the tokenizer has 257 tokens, the model only V=256: raise model.V"):
        check_tokenizer(dataclasses.replace(run, model=tiny.model(V=256)), ByteTokenizer())


def test_samples_must_fit_into_the_positions():
    """Found before the first step, not when it is time for samples."""
    model = tiny.model(positions=LearnedConfig(32))
    check_tokenizer(tiny.run(model=model, prompts=("x" * 23,), sample_tokens=8), ByteTokenizer())
    with pytest.raises(UserError, match=r"a prompt of 25 tokens and sample_tokens=8 exceed the 32 positions"):
        check_tokenizer(tiny.run(model=model, prompts=("", "x" * 24), sample_tokens=8), ByteTokenizer())
    check_tokenizer(tiny.run(model=model, prompts=(), sample_tokens=8), ByteTokenizer())
