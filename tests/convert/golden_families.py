"""Small goldens of many families, all their rows in one call: as those of `tests.convert.golden`, by
scripts/make_family_goldens.py, but for

configs.json        of each golden, two or three layers of a published file's options
tokens, mask        rows without padding, rows padded on the left, and prompts with the tokens that follow greedily
logits              zero where the mask is zero
loss, gradients     of the rows without padding
greedy              what follows the prompts
"""

import json
from pathlib import Path
from typing import Any

from tests.convert import golden

FOLDER = Path(__file__).resolve().parents[1] / "goldens_families"
CONFIGS = json.loads((FOLDER / "configs.json").read_text())
ROWS = 2  # of each kind


def config(name: str) -> dict[str, Any]:
    return CONFIGS[name]


def expected(name: str) -> dict[str, Any]:
    """The entries of the file; `tensors` as {name: shape}."""
    return golden.entries(FOLDER / f"{name}.npz")


def write(folder: Path, name: str) -> Path:
    """A checkpoint of the golden model in `folder`."""
    return golden.checkpoint(folder, config(name), expected(name))
