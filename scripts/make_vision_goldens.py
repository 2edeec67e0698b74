#!/usr/bin/env python3
"""Compute tests/goldens_vision/<name>.npz with transformers: scripts/make_vision_goldens.py [NAME ...]

Needs the `parity` extra. What is in the files: tests/convert/golden_vision.py.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
from make_goldens import learned, write_each, written  # noqa: E402 (found by the path above)

from tests.convert import golden, golden_vision  # noqa: E402 (found by the path above)


def compute(name: str) -> dict[str, Any]:
    """The entries of the file."""
    kind = getattr(transformers, name)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(golden_vision.config(name)))
        config = transformers.AutoConfig.from_pretrained(folder)
        config._attn_implementation = "eager"
        shapes = {key: x.shape for key, x in sorted(written(kind(config)).items())}
        save_file(golden.weights(shapes, golden_vision.SEED), Path(folder, "model.safetensors"))
        model, info = kind.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    for which in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[which], (name, which, info[which])
    given = {"interpolate_pos_encoding": "image_size" not in golden_vision.GOLDENS[name][0]}
    out = model.eval()(torch.tensor(golden_vision.pixels(name)), output_hidden_states=True, **given)
    body = model if name.endswith("Model") else getattr(model, model.base_model_prefix)
    found = {"hidden": body(torch.tensor(golden_vision.pixels(name)), **given).last_hidden_state}
    found |= {ours: out[key] for ours, key in (("pooled", "pooler_output"), ("logits", "logits")) if key in out}
    noise = lambda key, x: torch.tensor(golden.noise(key, tuple(x.shape), golden_vision.SEED))
    loss = sum((x * noise(key, x)).sum() for key, x in found.items())
    loss.backward()
    whole = {key: x.detach().numpy() for key, x in found.items()}
    return learned(model, shapes, golden_vision.SEED) | whole | {"loss": loss.item()}


if __name__ == "__main__":
    write_each(sys.argv[1:] or golden_vision.GOLDENS, golden_vision.FOLDER, compute)
