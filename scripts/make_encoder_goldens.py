#!/usr/bin/env python3
"""Compute tests/goldens_encoders/<name>.npz with transformers: scripts/make_encoder_goldens.py [NAME ...]

Needs the `parity` extra. What is in the files: tests/convert/golden_encoders.py.
"""

import inspect
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
from make_goldens import learned, write_each, written  # noqa: E402 (found by the path above)

from tests.convert import golden, golden_encoders  # noqa: E402 (found by the path above)

ROWS, T, SEED = 2, 10, 0
LENGTHS = [10, 7]


def opened(name: str, tensors: dict[str, np.ndarray] | None = None) -> Any:
    """The model of a golden with these tensors, or any."""
    fields = golden_encoders.config(name)
    kind = getattr(transformers, fields["architectures"][0])
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(fields))
        config = transformers.AutoConfig.from_pretrained(folder)
        config._attn_implementation = "eager"
        if tensors is None:
            return kind(config).eval()
        save_file(tensors, Path(folder, "model.safetensors"))
        model, info = kind.from_pretrained(folder, output_loading_info=True, attn_implementation="eager")
    for which in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[which], (name, which, info[which])
    return model.eval()


def given(name: str, model: Any) -> dict[str, np.ndarray]:
    config, draw = model.config, lambda what, *more: (32 * golden.noise(what, (ROWS, T, *more), SEED)).astype(np.int64)
    mask = (np.arange(T) < np.array(LENGTHS)[:, None]).astype(np.int64)
    tokens = 5 + (draw("tokens", 2) @ [64, 1]) % (config.vocab_size - 5)
    found = {"tokens": np.where(mask, tokens, config.pad_token_id), "mask": mask}
    if getattr(config, "type_vocab_size", 0) > 1:
        found["types"] = draw("types") % 2 * mask
    if config.model_type == "longformer":
        found["global"] = (np.arange(T) < golden_encoders.BEFORE).astype(np.int64)[None] * mask
    return found


def compute(name: str) -> dict[str, Any]:
    """The entries of the file."""
    shapes = {key: x.shape for key, x in sorted(written(opened(name)).items())}
    model = opened(name, golden.weights(shapes, SEED))
    inputs = given(name, model)
    theirs = {"tokens": "input_ids", "mask": "attention_mask", "types": "token_type_ids"}
    more = {theirs.get(key, "global_attention_mask"): torch.tensor(x) for key, x in inputs.items()}
    if "question_lengths" in inspect.signature(model.forward).parameters:
        more["question_lengths"] = torch.zeros((ROWS, 1), dtype=torch.long)  # else logits of questions are lowered
    out = model(**more, output_hidden_states=True)
    mask = torch.tensor(inputs["mask"], dtype=torch.float32)
    body = next(part for key, part in model.named_children() if key == model.base_model_prefix)
    hidden = body(**{key: x for key, x in more.items() if key != "question_lengths"}).last_hidden_state
    found = {"hidden": hidden * mask[..., None]}
    logits = out.get("prediction_logits", out.get("logits"))
    if "start_logits" in out:
        logits = torch.stack([out.start_logits, out.end_logits], -1)
    after = out.get("seq_relationship_logits", out.get("sop_logits"))
    if "NextSentence" in name:
        logits, after = None, logits
    if logits is not None:
        of_tokens = logits.shape[:2] == mask.shape
        found["logits"] = logits * mask.reshape(*mask.shape, *[1] * (logits.ndim - 2)) if of_tokens else logits
    if after is not None:
        found["next"] = after
    heads = {key: found[key] for key in ("logits", "next") if key in found}
    loss = sum((x * torch.tensor(golden.noise(key, tuple(x.shape), SEED))).sum() for key, x in heads.items())
    loss.backward()
    return {
        **learned(model, shapes, SEED),
        **{key: np.int8(x) for key, x in inputs.items()},
        **{key: x.detach().numpy() for key, x in found.items()},
        "loss": loss.item(),
    }


if __name__ == "__main__":
    write_each(sys.argv[1:] or golden_encoders.NAMES, golden_encoders.FOLDER, compute)
