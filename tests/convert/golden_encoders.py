"""The goldens of encoders: as those of `tests.convert.golden`, by scripts/make_encoder_goldens.py, but for

configs.json                     of each family, and what a golden called FAMILY-ARCHITECTURE... changes in it
tokens, mask, types, global      rows padded on the right; the last two where the family has them
hidden                           of the last layer, zero where the mask is zero
logits, next                     of the head (spans: (B, T, 2)), zero where the mask is zero; of the next sentence
loss                             sum(logits * noise("logits")) + sum(next * noise("next")), over what is not padding
"""

import json
from pathlib import Path
from typing import Any

from tests.convert import golden

FOLDER = Path(__file__).resolve().parents[1] / "goldens_encoders"
CONFIGS = json.loads((FOLDER / "configs.json").read_text())
NAMES = [f"{family}-{name}" for family, one in CONFIGS.items() for name in one["goldens"]]
BEFORE = 4  # tokens of each row that stand before a [SEP], as the question of a span


def config(name: str) -> dict[str, Any]:
    """The config.json of a golden, whose name ends with a class of transformers, and maybe "." and a word."""
    family, _, kind = name.partition("-")
    one = CONFIGS[family]
    return one["fields"] | {"architectures": [kind.partition(".")[0]]} | one["goldens"][kind]


def expected(name: str) -> dict[str, Any]:
    """The entries of the file; `tensors` as {name: shape}."""
    return golden.entries(FOLDER / f"{name}.npz")


def write(folder: Path, name: str) -> Path:
    """A checkpoint of the golden model in `folder`."""
    return golden.checkpoint(folder, config(name), expected(name))
