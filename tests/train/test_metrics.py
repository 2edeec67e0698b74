import json
import math
import os
import sys
import types
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.errors import UserError
from jaxlm.train.metrics import JsonLines, TensorBoard, WandB, writers


def strict(text):
    def refuse(name):
        raise ValueError(name)

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def scalars(folder):
    """(step, name, value) of all events, as TensorBoard reads them: purged steps are left out."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            if event.HasField("session_log"):
                found = [entry for entry in found if entry[0] < event.step]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def test_lines_are_on_disk_at_once_and_strict_json(tmp_path):
    writer = JsonLines(tmp_path / "m.jsonl")
    writer.write(1, {"train/loss": jnp.float32(2.5), "eval/loss": np.float64(3.0), "n": 4})
    writer.write(2, {"train/loss": math.nan, "x": math.inf, "y": -math.inf})
    assert strict((tmp_path / "m.jsonl").read_text()) == [
        {"step": 1, "train/loss": 2.5, "eval/loss": 3.0, "n": 4.0},
        {"step": 2, "train/loss": None, "x": None, "y": None},
    ]
    writer.close()


def test_resuming_drops_later_steps_and_a_torn_line(tmp_path):
    path = tmp_path / "m.jsonl"
    for resume, first, torn in ((None, 0, '{"step": 1, "ru'), (2, 3, '{"step": 1, "run": 9}')):
        writer = JsonLines(path, resume_step=resume)
        for step in range(first, 5):
            writer.write(step, {"run": first})
        writer.close()
        path.write_text(path.read_text() + torn)
    writer = JsonLines(path)
    writer.write(5, {"run": 5})
    writer.close()
    assert [(line["step"], line["run"]) for line in strict(path.read_text())] == [
        *[(0, 0), (1, 0), (2, 0)],
        *[(3, 3), (4, 3), (5, 5)],
    ]
    assert os.listdir(tmp_path) == ["m.jsonl"]


def test_resuming_drops_damaged_lines(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1, "a": 2}\n\x00\xff\x00\n[1]\n{"a": 3}\n{"step": "x"}\n{"step": 2}\n')
    JsonLines(path, resume_step=9).close()
    assert [line["step"] for line in strict(path.read_text())] == [1, 2]


def test_a_full_disk_is_a_clear_error(tmp_path):
    resource = pytest.importorskip("resource", reason="needs file size limits")
    writer = JsonLines(tmp_path / "m.jsonl")
    writer.write(1, {"a": 1})
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30, hard))  # writing beyond it fails as on a full disk
        with pytest.raises(UserError, match=r"could not write to .*m.jsonl: File too large"):
            writer.write(2, {"a": 2})
        writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    JsonLines(tmp_path / "m.jsonl", resume_step=1).close()
    assert strict((tmp_path / "m.jsonl").read_text()) == [{"step": 1, "a": 1.0}]


def test_tensorboard_has_the_same_keys_and_hides_what_is_repeated(tmp_path, capfd):
    for resume, steps in ((None, range(1, 5)), (2, range(3, 6))):
        writer = TensorBoard(tmp_path, resume_step=resume)
        for step in steps:
            writer.write(step, {"train/loss": jnp.float32(step + 100 * (resume or 0)), "bad": math.nan})
        writer.close()
    assert scalars(tmp_path) == [(i, "train/loss", i) for i in (1, 2)] + [(i, "train/loss", i + 200) for i in (3, 4, 5)]
    assert capfd.readouterr() == ("", "")


def test_writers_by_name(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = writers(["jsonl", "tensorboard"], tmp_path / "run", resume_step=0)
        for writer in made:
            writer.write(1, {"train/loss": 2.0})
            writer.close()
    assert strict((tmp_path / "run" / "metrics.jsonl").read_text()) == [{"step": 1, "train/loss": 2.0}]
    assert scalars(tmp_path / "run" / "tensorboard") == [(1, "train/loss", 2.0)]
    with pytest.raises(UserError, match="unknown writer 'tensorbord': did you mean 'tensorboard'"):
        writers(["tensorbord"], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_wandb_is_optional(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        WandB(tmp_path)


def test_wandb_gets_the_same_keys_and_the_same_run(tmp_path, monkeypatch):
    class Error(Exception):
        pass

    logged, made = [], []

    def init(**options):
        if options["name"] == "broken":
            raise Error("no API key")
        made.append(options)
        return types.SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Error=Error))
    for _ in range(2):
        writer = WandB(tmp_path)
        writer.write(3, {"train/loss": jnp.float32(2.0)})
        writer.close()
    assert logged == [(3, {"train/loss": 2.0})] * 2
    assert made[0] == made[1] and made[0]["resume"] == "allow"
    with pytest.raises(UserError, match=r"no API key.*wandb login"):
        WandB(tmp_path / "broken")
