"""`scripts/bench`: rows come out as JSON, pieces run elsewhere, gates close, and the h200 suite needs little."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
LACKING = ("grain", "orbax", "sentencepiece", "tokenizers", "matplotlib", "tensorboardX", "pyarrow", "safetensors")


@pytest.fixture
def bench(monkeypatch):
    """Imports a module of the suites; its pieces see this machine as it is, not as eight devices."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.delenv("JAX_NUMPY_RANK_PROMOTION")
    return lambda name: importlib.import_module(f"benchsuite.{name}")


def run(*args: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPTS / "bench"), *args]
    return subprocess.run(
        command, env=os.environ | {"XLA_FLAGS": ""} | environment, capture_output=True, text=True, timeout=240
    )


def test_rows_are_json_and_a_table(tmp_path):
    out = tmp_path / "rows.jsonl"
    done = run("cpu", "--tiny", "--rows", "ceiling.read,input.loader", "--out", str(out))
    assert done.returncode == 0, done.stderr
    printed, _, shown = done.stdout.partition("\n\n")
    assert out.read_text() == printed + "\n"
    rows = {row["id"]: row for row in map(json.loads, printed.splitlines())}
    assert set(rows) == {"ceiling.read", "input.loader"}
    for row in rows.values():
        keys = "id value unit peer ratio goal met versions device load others commit repeats note"
        assert list(row) == keys.split()
        assert row["value"] > 0 and len(row["load"]) == 2 and row["others"] >= 0 and "core" in row["device"]
    loader = rows["input.loader"]
    assert loader["ratio"] == pytest.approx(loader["value"] / loader["peer"], rel=1e-3)
    assert loader["goal"] == "value >= 10" and loader["met"] is (loader["value"] >= 10)
    assert "jax" in rows["ceiling.read"]["versions"] and "1 core" in loader["device"]
    assert len(loader["repeats"]) == 2 and shown.count("\n") == 3


def test_recurrences_beside_their_plain_scans(tmp_path, bench):
    out = tmp_path / "rows.jsonl"
    done = run("recurrent", "--tiny", "--rows", "wkv.*", "--out", str(out))
    assert done.returncode == 0, done.stderr
    rows = {row["id"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert set(rows) == {"wkv.forward", "wkv.gradient"} and rows["wkv.gradient"]["goal"] == "ratio >= 5"
    for row in rows.values():
        assert row["ratio"] == pytest.approx(row["peer"] / row["value"], rel=1e-3) and len(row["repeats"]) == 2


@pytest.mark.parametrize("name", ["gated_linear.bonus", "delta_rule", "mlstm", "ssd", "mamba", "rg_lru", "hgrn", "s4d"])
def test_what_is_compared_is_the_same(bench, name):
    ours, plain, xs = bench("recurrent").pair(name, 24, 2, 4)
    np.testing.assert_allclose(ours(*xs), plain(*xs), atol=1e-4)


def test_an_unknown_row_is_refused():
    done = run("cpu", "--rows", "trian.*")
    assert done.returncode == 2 and "'trian.*'" in done.stderr and "train.124m" in done.stderr and not done.stdout


def test_every_row_is_declared_once(bench):
    for name in ("cpu", "h200"):
        suite = bench(name)
        for tiny in (False, True):
            ids = [id for family in suite.families(tiny) for id in family.ids]
            assert len(ids) == len(set(ids)) and "ceiling.matmul" in ids


def test_a_failed_piece_voids_its_rows(bench, capsys, monkeypatch):
    main = bench("main")
    monkeypatch.setattr(bench("inputs"), "median", lambda values: bench("piece").run("inputs:absent", {}))
    assert main.main(["cpu", "--tiny", "--rows", "input.loader"]) == 1
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert row["value"] is None and row["note"].startswith("failed: inputs:absent: exit code 1: AttributeError")


def test_goals(bench):
    row = bench("row").Row
    assert row("a", 0.9, "", goal="value < 1").met and not row("a", 1.0, "", goal="value < 1").met
    assert row("a", 5.0, "s", goal="value <= 5").met and row("a", 1.0, "", ratio=2.0, goal="ratio >= 1.7").met
    assert row("a", None, "", goal="value < 1").met is None and row("a", 1.0, "").met is None
    assert row("a", 1.0, "", ratio=None, goal="ratio >= 1.7 (stretch 2.5)").met is None
    with pytest.raises(AssertionError):
        row("a", 1.0, "", goal="at least 2")


def test_the_training_gate(bench):
    training = bench("training")
    ours = {"loss": [5.0, 4.0], "grad_norm": [1.0, 2.0]}
    near = {"loss": [5.0004, 4.0], "grad_norm": [1.0, 2.0001]}
    assert training.gate(ours, near, training.FLOAT32) == ""
    for name, values in (("loss", [5.0, 4.001]), ("grad_norm", [1.0002, 2.0]), ("loss", [float("nan"), 4.0])):
        assert training.gate(ours, ours | {name: values}, training.FLOAT32).startswith(f"void: {name} of step")


def test_the_decoding_gate(bench, monkeypatch):
    decoding, gap = bench("decoding"), {"value": 1e-4}
    asked = []
    fake = type("Bench", (), {"run": lambda self, function, args: (asked.append(args), gap)[1]})()
    size = bench("sizes").Size(N=1, D=8, H=1, V=8, T=8, B=1)
    gate = lambda a, b: decoding.gate(fake, size, 3, {"tokens": [a]}, {"tokens": [b]})
    assert gate([1, 2, 3], [1, 2, 3]) == "" and not asked
    assert gate([1, 2, 3], [1, 4, 3]).startswith("equal for 1 tokens")
    assert (asked[0]["ours"], asked[0]["a"], asked[0]["b"]) == ([1], 2, 4)
    gap["value"] = 0.1
    assert gate([1, 2, 3], [1, 4, 3]).startswith("void: token 1")


def test_weights_take_the_names_and_shapes_of_gpt2(bench):
    gpt2, size = bench("gpt2"), bench("sizes").Size(N=2, D=8, H=2, V=16, T=4, B=1)
    params = gpt2.fresh(gpt2.run_config(size).model)
    out = gpt2.hugging_face(params)
    assert len(out) == 4 + 12 * size.N
    assert out["transformer.h.1.attn.c_attn.weight"].shape == (8, 24)
    q = np.asarray(params["segment_0"]["periods"]["block_0"]["mixer"]["k"])[1]  # (D, H, K)
    np.testing.assert_array_equal(out["transformer.h.1.attn.c_attn.weight"][:, 8:16], q.reshape(8, 8))
    assert out["transformer.h.0.mlp.c_fc.bias"].shape == (32,) and out["transformer.wpe.weight"].shape == (4, 8)


def test_the_h200_suite_needs_jax_flax_and_optax_only(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {LACKING}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    wanted = "train.1.3b.mfu,decode.124m.stacked,train.124m"
    done = run("h200", "--tiny", "--rows", wanted, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stdout
    rows = {row["id"]: row for row in map(json.loads, done.stdout.partition("\n\n")[0].splitlines())}
    assert rows["train.1.3b.mfu"]["value"] > 0 and rows["decode.124m.stacked"]["value"] > 0
    absent = rows["train.124m"]  # compared with what was not given
    assert absent["value"] is absent["peer"] is absent["met"] is None and absent["note"] == "needs --peer"
