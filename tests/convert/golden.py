"""The goldens: one small model or more of each family, and what transformers computed on it.

`tests/goldens/<name>/config.json` is written by hand, in the words of published files, to use the family's options.
`expected.npz` beside it was computed from that by scripts/make_goldens.py. The weights are stored nowhere: a tensor is
made from its name, so this file needs neither torch nor jax, and both sides get the same bits. Entries of expected.npz:

    tensors, seed                    a JSON {name: shape} of what transformers writes; the seed of the weights
    tokens, logits, loss             rows without padding; the loss is the mean of all next tokens'
    gradients, projections           for each tensor the norm of the loss's gradient, and its product with `noise`
    padded, mask, padded_logits      rows padded on the left; zero where the mask is zero
    prompts, prompts_mask, greedy    prompts, one of them padded on the left, and the tokens that follow greedily
    torch, transformers              the versions that computed this
"""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

FOLDER = Path(__file__).resolve().parents[1] / "goldens"
NAMES = sorted(path.name for path in FOLDER.iterdir())


def noise(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """float32 in [-1, 1), multiples of 1/32, from a hash of the name."""
    raw = hashlib.shake_256(f"{seed} {name}".encode()).digest(math.prod(shape))
    return (np.frombuffer(raw, np.int8) >> 2).reshape(shape).astype(np.float32) / 32


def weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """float32 values that bfloat16 and float16 have too; norms about 1, biases about 0, matrices that keep a size."""

    def one(name: str, shape: tuple[int, ...]) -> np.ndarray:
        x = noise(name, shape, seed)
        if re.search(r"([nN]orm\w*|ln_(\w|attn|mlp))\.weight$", name):
            return 1 + x / 2
        return x / 2 if len(shape) == 1 else x * 2.0 ** (1 - round(math.log2(shape[-1]) / 2))

    return {name: one(name, shape) for name, shape in shapes.items()}


def entries(path: Path) -> dict[str, Any]:
    """Those of a file of expected values; `tensors` as {name: shape}."""
    with np.load(path) as file:
        found = {key: file[key] for key in file.files}
    found["tensors"] = {key: tuple(shape) for key, shape in json.loads(str(found["tensors"])).items()}
    return found


def expected(name: str) -> dict[str, Any]:
    """The entries of expected.npz."""
    return entries(FOLDER / name / "expected.npz")


def config(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name / "config.json").read_text())


def write(folder: Path, name: str, dtype: Any = np.float32) -> Path:
    """A checkpoint of the golden model in `folder`, its weights in `dtype`."""
    return checkpoint(folder, config(name), expected(name), dtype)


def checkpoint(folder: Path, fields: dict[str, Any], e: dict[str, Any], dtype: Any = np.float32) -> Path:
    """A checkpoint in `folder` with this config.json, of the tensors and the seed among the entries `e`."""
    tensors = {key: x.astype(dtype) for key, x in weights(e["tensors"], int(e["seed"])).items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    save_file(tensors, folder / "model.safetensors")
    return folder
