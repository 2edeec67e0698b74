import json

import numpy as np
import pytest

from jaxlm import config
from jaxlm.errors import UserError
from jaxlm.models import flops
from jaxlm.scaling import Runs, read
from tests import tiny
from tests.scaling import published


def test_a_table_is_read_by_any_spelling(tmp_path):
    (tmp_path / "a.csv").write_text("Model Size,note,Training FLOP,loss\n1e6,x,6e15,3.5\n2e6,y,2.4e16,3.1\n")
    (tmp_path / "b.jsonl").write_text('{"N": 3e6, "D": 1e9, "loss": 3.0}\n\n{"params": 4e6, "tokens": 5, "loss": 2}\n')
    runs = read([tmp_path / "a.csv", tmp_path / "b.jsonl"])
    np.testing.assert_allclose(runs.parameters, [1e6, 2e6, 3e6, 4e6])
    np.testing.assert_allclose(runs.tokens, [1e9, 2e9, 1e9, 5])
    np.testing.assert_allclose(runs.flops, [6e15, 2.4e16, 1.8e16, 1.2e8])
    np.testing.assert_allclose(runs.loss, [3.5, 3.1, 3.0, 2])


def test_a_run_folder_gives_its_last_held_out_loss(tmp_path):
    run = tiny.run()
    config.save(run, tmp_path / "config.json")
    entries = [{"step": 0, "eval/loss": 5.0}, {"step": 3, "eval/loss": 4.0}, {"step": 6, "eval/loss": 3.5}]
    lines = [json.dumps(entry) for entry in [*entries, {"step": 6, "train/loss": 1.0}, {"step": 7, "eval/loss": None}]]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 8, "eval/lo')
    runs = read([tmp_path])
    tokens = 6 * 4 * 32
    assert (runs.loss.item(), runs.tokens.item()) == (3.5, tokens)
    assert runs.parameters == flops.active_parameters(run.model)
    assert runs.flops == tokens * flops.train_flops(run.model, 32)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.csv", "N,loss\n1,2\n", "a.csv, run 1 has no tokens or flops: name a column 'tokens' or 'd' or 'flops' or"),
        ("a.csv", "size,D,loss\n1,2,3\n", "has no parameters: name a column 'parameters' or 'params'; it has 'size',"),
        ("a.csv", "N,D,loss\n1,2,3\n1,-2,3\n", "a.csv, run 2: d is '-2'; it must be a positive number"),
        ("a.csv", "N,D,loss\n1,2,nan\n", "a.csv, run 1: loss is 'nan'; it must be a positive number"),
        ("a.csv", "N,D,loss\n1,2,much\n", "loss is 'much'"),
        ("a.csv", "N,D,loss\n1,2\n", "has no loss"),
        ("a.csv", "N,D,loss\n", "there is not one run to read"),
        ("a.csv", "", "there is not one run to read"),
        ("a.jsonl", '{"N": 1\n', "a.jsonl, line 1 is not JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl, line 1 is not a JSON object"),
        ("a.txt", "", "runs are read from .csv, .jsonl or a run folder"),
    ],
)
def test_a_bad_table_is_one_line(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        read([tmp_path / name])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_bad_files_and_folders(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the runs of .*none.csv: No such file"):
        read([tmp_path / "none.csv"])
    (tmp_path / "a.csv").write_bytes(b"N,\xff")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read([tmp_path / "a.csv"])
    with pytest.raises(UserError, match="cannot read the config"):
        read([tmp_path])
    config.save(tiny.run(), tmp_path / "config.json")
    with pytest.raises(UserError, match="has no held-out loss yet"):
        read([tmp_path])
    config.save(tiny.model(), tmp_path / "config.json")
    with pytest.raises(UserError, match=r"is no run: its config.json is a LMConfig"):
        read([tmp_path])


def test_runs_of_python_must_be_positive_and_of_one_length():
    with pytest.raises(UserError, match="run 2: tokens is 0"):
        Runs(np.ones(2), np.array([1.0, 0.0]), np.ones(2))
    with pytest.raises(UserError, match="a number a run each"):
        Runs(np.ones(2), np.ones(2), np.ones(3))


def test_leaving_out_and_ordering():
    runs = Runs(np.array([4.0, 1.0, 2.0]), np.ones(3), np.array([1.0, 3.0, 2.0]))
    np.testing.assert_array_equal(runs.without_highest(1).parameters, [4, 2])
    np.testing.assert_array_equal(runs.without_highest(0).parameters, [4, 1, 2])
    np.testing.assert_array_equal(runs.by_compute().parameters, [1, 2, 4])


def test_the_published_runs(shared):
    assert len(published.chinchilla(shared)) == 245
    assert len(published.overtrained(shared, "rpj", "c4_val")) == 35
