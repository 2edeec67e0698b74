"""scripts/formal_languages: what a table says of its cells, and that a run makes them, once."""

import importlib.machinery
import importlib.util
import json
from pathlib import Path

import pytest

from configs.formal_languages import MODELS, formal_languages
from jaxlm.data.synthetic import FORMAL
from jaxlm.errors import UserError
from jaxlm.models import abstract

FILE = Path(__file__).resolve().parents[1] / "scripts" / "formal_languages"


@pytest.fixture(scope="module")
def script():
    loader = importlib.machinery.SourceFileLoader("formal_languages_script", str(FILE))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def made(model, task, rate, seed, scaled):
    how = {"steps": 9, "most": 10, "growing": 0.5, "batch": 2, "width": 8, "processor": 1.0, "known": 1.0}
    return {"model": model, "task": task, "rate": rate, "seed": seed, "scaled": scaled, **how}


def test_a_table_has_the_best_rate_and_the_papers_numbers(script):
    cells = [
        made("lstm", "parity", rate, seed, s) for rate, seed, s in ((1, 0, 0.2), (1, 1, 0.4), (2, 0, 0.9), (2, 1, 1))
    ]
    found = script.best([*cells, made("mamba", "set", 1, 0, 0.5)])
    lines = script.table(found).splitlines()
    assert lines[0] == "| model | parity | set |"
    assert lines[2:] == ["| mamba | not run (0.13) | 0.50 |", "| lstm | 0.95 ± 0.05 (1.00) | not run |"]
    assert "| lstm | parity | 2 | 0, 1 | 9, 9 | 1, 1 | 1.00, 1.00 | 0.90, 1.00 |" in script.details(found)
    assert script.lectures("llama", "majority") == 0.37 and set(script.COLUMNS) <= set(FORMAL)


def test_cells_are_made_once(script, tmp_path, capsys):
    few = {"models": "gru", "seeds": 1, "rates": 0.01, "steps": 2, "batch": 2, "width": 8, "rows": 9, "test-rows": 2}
    few = [word for name, value in few.items() for word in (f"--{name}", str(value))] + ["--out"]
    assert script.main([*few, str(tmp_path)]) == 0
    (cell,) = (tmp_path / "cells").iterdir()
    before = cell.stat().st_mtime_ns
    assert json.loads(cell.read_text())["steps"] == 2 and (tmp_path / "formal.png").stat().st_size > 1000
    assert script.main([*few, str(tmp_path)]) == 0 and cell.stat().st_mtime_ns == before
    assert script.main(["--table", "--out", str(tmp_path)]) == 0
    assert script.main(["--table", "--out", str(tmp_path / "other")]) == 2
    assert "has no cell" in capsys.readouterr().err
    assert script.main(["--tasks", "parities", "--out", str(tmp_path)]) == 2
    assert "unknown synthetic task 'parities'" in capsys.readouterr().err


def test_every_model_of_the_table_is_built():
    for model in MODELS:
        assert abstract(formal_languages(model, D=16).model)[0]
    with pytest.raises(UserError, match="unknown model 'lstms'"):
        formal_languages("lstms")
