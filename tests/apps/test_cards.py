"""Sums of energy, and cards that say what the files say."""

import json

import pytest

from jaxlm.apps import cards
from jaxlm.errors import UserError


def test_energy():
    found = cards.footprint(hours=10, watts=700, chips=8, pue=1.2, g_per_kwh=100)
    assert found.kwh == pytest.approx(67.2) and found.kg_co2 == pytest.approx(6.72)
    assert cards.hours_of(3.6e18, 1e15, 0.5) == pytest.approx(2.0)
    for how, message in (({"hours": 0}, "hours"), ({"pue": 0.5}, "pue below 1"), ({"chips": 0}, "chips")):
        with pytest.raises(UserError, match=message):
            cards.footprint(**{"hours": 1, "watts": 1, **how})
    with pytest.raises(UserError, match="mfu must lie in"):
        cards.hours_of(1, 1, 2)


def test_cards(tmp_path):
    run = tmp_path / "mine"
    run.mkdir()
    with pytest.raises(UserError, match=r"config.json: No such file"):
        cards.model_card(run)
    config = {
        "model": {"type": "jaxlm.models.lm.LMConfig", "V": 264, "D": 32},
        "data": {"sources": [{"path": "a.txt"}]},
    }
    (run / "config.json").write_text(json.dumps({**config, "steps": 9}))
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.5}\n{"st')
    measures = [{"task": "gsm8k", "metric": "strict", "value": 0.25, "n": 8}]
    (tmp_path / "r.json").write_text(json.dumps({"measures": measures}))
    card = cards.model_card(run, "Not for advice.", cards.Footprint(1.5, 0.3), tmp_path / "r.json")
    for said in ("# mine", "LMConfig", "- V: 264", "a.txt (weight 1)", "- loss: 2.5", "gsm8k, strict: 0.25 (n = 8)"):
        assert said in card
    assert "1.5 kWh, 0.3 kg CO2" in card and "Not for advice." in card and "To be filled in" not in card
    assert "To be filled in." in cards.model_card(run)
    cards.save(cards.data_card("d", "table", cleaning=["3 of 4 kept"]), tmp_path / "d.md")
    assert "3 of 4 kept" in (tmp_path / "d.md").read_text()
