"""A model that learns from what it is shown is seen to."""

import json

import pytest

from jaxlm.errors import UserError
from jaxlm.evals.in_context import by_shots, plot_shots
from jaxlm.evals.tasks import task
from tests.evals.models import Told


def test_by_shots(tmp_path):
    rows = [{"question": f"q{i}?", "answer": f"#### {i}"} for i in range(12)]
    (tmp_path / "g.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = Told()
    # Right once it has seen two answers.
    model.generate = lambda prompts, *how: [
        "#### " + p.rpartition("q")[2].partition("?")[0] if p.count("####") >= 2 else "" for p in prompts
    ]
    found = by_shots(model, task("gsm8k", tmp_path / "g.jsonl"), "strict", (0, 1, 2, 4))
    assert [one.value for one in found] == [0, 0, 1, 1] and {one.n for one in found} == {8}
    plot_shots({"told": found}, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="has no metric 'x', but strict, flexible"):
        by_shots(model, task("gsm8k", tmp_path / "g.jsonl"), "x", (0,))
