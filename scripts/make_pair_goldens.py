#!/usr/bin/env python3
"""Compute tests/goldens_pairs/<name>/expected.npz with transformers: scripts/make_pair_goldens.py [NAME ...]

Needs the `parity` extra. What is in the files: tests/convert/golden_pairs.py. The first seed is taken under which the
model writes more than a few tokens, and noise of 1e-5 in all weights changes none of them.
"""

import functools
import itertools
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
from make_goldens import learned, written  # noqa: E402 (found by the path above)

from tests.convert import golden, golden_pairs  # noqa: E402 (found by the path above)

ROWS, SOURCE, TARGET = 3, 12, 7
LENGTHS = [12, 9, 4]  # of sources


def opened(name: str, tensors: dict[str, np.ndarray] | None = None) -> Any:
    """The model of a golden with these tensors, or any."""
    how = {"attn_implementation": "eager", "dtype": torch.float32}
    heard = golden_pairs.config(name)["model_type"] == "whisper"
    auto = transformers.AutoModelForSpeechSeq2Seq if heard else transformers.AutoModelForSeq2SeqLM
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(golden_pairs.config(name)))
        if tensors is None:
            config = transformers.AutoConfig.from_pretrained(folder)
            return auto.from_config(config, **how).eval()
        save_file(tensors, Path(folder, "model.safetensors"))
        model, info = auto.from_pretrained(folder, output_loading_info=True, **how)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], (name, kind, info[kind])
    return model.eval()


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Of the tensors of a file; a head of its own is there where config.json says so."""
    found = {key: x.shape for key, x in written(opened(name)).items()}
    config = golden_pairs.config(name)
    if config.get("tie_word_embeddings") is False:
        found["lm_head.weight"] = (config["vocab_size"], config["d_model"])
    return dict(sorted(found.items()))


def tokens(name: str, seed: int, length: int, V: int) -> np.ndarray:
    bits = (32 * golden.noise(name, (ROWS, length, 2), seed)).astype(np.int64)
    return 3 + (bits @ [64, 1]) % (V - 4)


def inputs(model: Any, source: np.ndarray, mask: np.ndarray) -> dict[str, torch.Tensor]:
    """As the model calls them: features have no mask."""
    if source.ndim == 3:
        return {"input_features": torch.tensor(source)}
    return {"input_ids": torch.tensor(source), "attention_mask": torch.tensor(mask)}


def decoded(model: Any, source: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Greedy and beam search by transformers itself, of Whisper too by its common method."""
    generate = functools.partial(transformers.GenerationMixin.generate, model)
    given = inputs(model, source, mask) | {"do_sample": False}
    given |= {"max_new_tokens": golden_pairs.NEW, "pad_token_id": model.config.pad_token_id}
    new = lambda ids: np.pad(ids[:, 1:], ((0, 0), (0, golden_pairs.NEW + 1 - ids.shape[1])), constant_values=-1)
    found = {"greedy": new(generate(**given, eos_token_id=None).numpy())}
    for kind, options in golden_pairs.BEAMS.items():
        how = {"eos_token_id": golden_pairs.END, "return_dict_in_generate": True, "output_scores": True}
        how |= {"num_return_sequences": options["num_beams"]} | options
        out = generate(**given, **how)
        ids = new(out.sequences.numpy())
        ends = np.cumsum(ids == golden_pairs.END, 1) - (ids == golden_pairs.END) > 0
        found[f"beam_{kind}"] = np.where(ends, -1, ids).reshape(ROWS, options["num_beams"], -1)
        found[f"scores_{kind}"] = out.sequences_scores.numpy().reshape(ROWS, -1)
    return found


def compute(name: str, shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Any] | None:
    """The entries of expected.npz, None if this seed will not do."""
    weights = golden.weights(shapes, seed)
    model = opened(name, weights)
    V, config = model.config.vocab_size, model.config
    mask = (np.arange(SOURCE) < np.array(LENGTHS)[:, None]).astype(np.int64)
    source = np.where(mask, tokens("source", seed, SOURCE, V), config.pad_token_id)
    if config.model_type == "whisper":
        S = config.max_source_positions
        source, mask = golden.noise("source", (ROWS, config.num_mel_bins, 2 * S), seed), np.ones((ROWS, S), np.int64)
    labels = tokens("labels", seed, TARGET, V)
    target = np.concatenate([np.full((ROWS, 1), config.decoder_start_token_id), labels[:, :-1]], 1)
    noisy = {key: np.float32(x * (1 + 1e-5 * golden.noise(key, x.shape, seed + 1))) for key, x in weights.items()}
    with torch.no_grad():
        written_by, others = decoded(model, source, mask), decoded(opened(name, noisy), source, mask)
    if not all(np.array_equal(x, others[key]) for key, x in written_by.items() if not key.startswith("scores")):
        return None
    if max(len(set(row)) for row in written_by["greedy"].tolist()) < 3:
        return None
    out = model(**inputs(model, source, mask), decoder_input_ids=torch.tensor(target), use_cache=False)
    loss = -torch.log_softmax(out.logits, -1).gather(-1, torch.tensor(labels)[..., None]).mean()
    loss.backward()
    print(f"{name}: seed {seed}, {written_by['greedy'][0]}, {written_by['beam_plain'][0, 0]}")
    return {
        **learned(model, shapes, seed),
        "source": source if source.ndim == 3 else np.int8(source),
        "mask": np.int8(mask),
        "target": np.int8(target),
        "labels": np.int8(labels),
        "encoded": out.encoder_last_hidden_state.detach().numpy() * mask[..., None].astype(np.float32),
        "logits": out.logits.detach().numpy(),
        "loss": loss.item(),
        **{key: x if key.startswith("scores") else np.int8(x) for key, x in written_by.items()},
    }


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for name in sys.argv[1:] or golden_pairs.NAMES:
        of = shapes(name)
        entries = next(found for seed in itertools.count() if (found := compute(name, of, seed)) is not None)
        np.savez_compressed(golden_pairs.FOLDER / name / "expected.npz", **entries)
