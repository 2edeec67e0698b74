"""The goldens of models that see: as those of `tests.convert.golden`, by scripts/make_vision_goldens.py, but for

hidden, pooled, logits           of the last norm; of the pooler and of the head where there are such
loss                             sum(x * noise(its name)) over hidden, pooled and logits

Pixels are made from their name, as weights are.
"""

from pathlib import Path
from typing import Any

import numpy as np

from tests.convert import golden

FOLDER = Path(__file__).resolve().parents[1] / "goldens_vision"
SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "patch_size": 4,
    "image_size": 12, "id2label": {"0": "cat", "1": "dog", "2": "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2},
}  # fmt: skip
GOLDENS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {  # what else config.json says; size of the images
    "ViTForImageClassification": (
        {"image_size": [12, 8], "qkv_bias": False, "hidden_act": "gelu_new", "num_channels": 1, "layer_norm_eps": 1e-3},
        (12, 8),
    ),
    "ViTModel": ({"pooler_act": "relu"}, (20, 8)),  # transformers interpolates positions of squares only
    "DeiTForImageClassification": ({}, (12, 12)),
    "DeiTForImageClassificationWithTeacher": ({}, (8, 16)),
}
SEED, ROWS = 0, 2


def config(name: str) -> dict[str, Any]:
    kind = "deit" if name.startswith("DeiT") else "vit"
    return SMALL | {"model_type": kind, "architectures": [name]} | GOLDENS[name][0]


def pixels(name: str) -> np.ndarray:
    """(B, C, Y, X)."""
    return golden.noise("pixels", (ROWS, config(name).get("num_channels", 3), *GOLDENS[name][1]), SEED)


def expected(name: str) -> dict[str, Any]:
    return golden.entries(FOLDER / f"{name}.npz")
