"""Runs saved by earlier code open: `saved/` has one for each time that names or the layout of parameters changed.

`first` is of the code before anything was moved: two kinds of attention, experts, a moment of adamw for each weight.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import jaxlm
from jaxlm import config
from jaxlm.train.loop import train
from tests import tiny
from tests.train.runs import put_on_one_device

SAVED = Path(__file__).parent / "saved"
NAMES = sorted(path.name for path in SAVED.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_model_that_was_saved(name):
    lm = jaxlm.load(SAVED / name)
    with np.load(SAVED / name / "expected.npz") as expected:
        np.testing.assert_allclose(lm.logits(expected["tokens"]), expected["logits"], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on(name, tmp_path, monkeypatch):
    """With its optimizer's state and its place in the data."""
    put_on_one_device(monkeypatch)
    folder = Path(shutil.copytree(SAVED / name, tmp_path / "run"))
    run = config.load(folder)
    text = tiny.write_text(tmp_path / "text")
    sources = (dataclasses.replace(run.data.sources[0], path=str(text)),)
    data = dataclasses.replace(run.data, sources=sources, cache=str(tmp_path / "cache"))
    train(dataclasses.replace(run, data=data, steps=run.steps + 1), folder)
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged if "train/loss" in line] == [1, 2, 3, 4, 5]
