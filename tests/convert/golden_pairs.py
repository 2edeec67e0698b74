"""The goldens of encoder-decoders: as those of `tests.convert.golden`, by scripts/make_pair_goldens.py, but for

source, mask, target, labels     rows padded on the right (Whisper's are features); targets begin with the start token
encoded                          of the source, zero where the mask is zero
logits, loss                     of the targets; the mean over all labels
greedy, beam, beam_scores        new tokens, and those of beam search with the options in `BEAMS`, with an end token
"""

import json
from pathlib import Path
from typing import Any

from tests.convert import golden

FOLDER = Path(__file__).resolve().parents[1] / "goldens_pairs"
NAMES = sorted(path.name for path in FOLDER.iterdir())
NEW = 8  # tokens
END = 17  # the id that ends texts of beam search
BANNED = (5, 23)
# Options of transformers' generate: one search for each.
BEAMS: dict[str, dict[str, Any]] = {
    "plain": {"num_beams": 3},
    "long": {"num_beams": 4, "length_penalty": 2.0, "early_stopping": "never"},
    "short": {"num_beams": 2, "length_penalty": -0.5, "early_stopping": True},
    "forced": {
        "num_beams": 3,
        "forced_bos_token_id": 9,
        "forced_eos_token_id": END,
        "bad_words_ids": [[i] for i in BANNED],
    },
}


def config(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name / "config.json").read_text())


def expected(name: str) -> dict[str, Any]:
    """The entries of expected.npz; `tensors` as {name: shape}."""
    return golden.entries(FOLDER / name / "expected.npz")


def write(folder: Path, name: str) -> Path:
    """A checkpoint of the golden model in `folder`."""
    return golden.checkpoint(folder, config(name), expected(name))
