"""The table of families."""

from pathlib import Path

from jaxlm.cli.families import text
from jaxlm.convert.families import model_types

README = Path(__file__).resolve().parents[2] / "README.md"


def test_every_model_type_has_a_line_and_the_readme_is_made_from_it():
    found = text(markdown=True)
    assert {kind for kind in model_types() if f"`{kind}`" not in found} == {"jaxlm"}
    assert found in README.read_text(), "run: jaxlm families --markdown"


def test_a_word_is_looked_for():
    assert "mamba2 (Mamba2ForCausalLM)" in text("MAMBA-2")
    assert text("qqq") == "no family's line has 'qqq' in it"
