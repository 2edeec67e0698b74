#!/usr/bin/env python3
"""Compute tests/goldens/<name>/expected.npz with transformers: scripts/make_goldens.py [NAME ...]

Needs the `parity` extra. What the goldens are and what is in the files: tests/convert/golden.py. To add one, write its
config.json and run this. The first seed is taken under which the model writes more than a few tokens and rounding can
change none of them: neither does noise of 1e-5 in all weights, nor reading the prompts again at every step.
"""

import inspect
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.convert import golden  # noqa: E402 (found by the path above)

KNOWN_AS = {"kimi_k2": "deepseek_v3", "mimo": "qwen2"}  # published with code of its own, the same as these'
# Decoding counts or reads the padding; or keys stay as they were rotated in shorter texts.
RECOMPUTED = ("llama4", "llama_dynamic", "recurrent_gemma", "rwkv", "xlstm")
ALONE = (
    "llama4_text",
    "recurrent_gemma",
    "rwkv",
    "xlstm",
)  # a temperature would count the padding, a recurrence read it
CONSTANTS = {"beta": 0.5, "eps": -1e-6}  # of xIELU, in files although nobody learns them
ROWS, LENGTH = 2, 20
PROMPT, NEW = 7, LENGTH - 7


def opened(name: str, tensors: dict[str, np.ndarray] | None = None, config: Any = golden.config) -> Any:
    """The model of a golden with these tensors, or any."""
    fields = dict(config(name))
    fields["model_type"] = KNOWN_AS.get(fields["model_type"], fields["model_type"])
    # Falcon's eager attention counts ALiBi twice.
    how = {"attn_implementation": "sdpa" if fields["model_type"] == "falcon" else "eager", "dtype": torch.float32}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(fields))
        if tensors is None:
            config = transformers.AutoConfig.from_pretrained(folder)
            return transformers.AutoModelForCausalLM.from_config(config, **how).eval()
        alphas = [key.removesuffix("alpha_p") for key in tensors if key.endswith("act_fn.alpha_p")]
        constants = {f"{key}{name}": np.array(x, np.float32) for key in alphas for name, x in CONSTANTS.items()}
        save_file(tensors | constants, Path(folder, "model.safetensors"))
        opening = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **how)
    model, info = opening
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], (name, kind, info[kind])
    return model.eval()


def written(model: Any) -> dict[str, np.ndarray]:
    """The tensors that the model writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        found = load_file(Path(folder, "model.safetensors"))
    return {key: x for key, x in found.items() if not key.endswith(tuple(f"act_fn.{name}" for name in CONSTANTS))}


def write_each(names: Iterable[str], folder: Path, compute: Callable[[str], dict[str, Any]]) -> None:
    """Computes and writes FOLDER/<name>.npz of every name."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for name in names:
        entries = compute(name)
        np.savez_compressed(folder / f"{name}.npz", **entries)
        print(f"{name}: {len(json.loads(entries['tensors']))} tensors, loss {entries['loss']:.3f}")


def gradients(model: Any) -> dict[str, np.ndarray]:
    """The gradients under the names of files, by writing them in place of the weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        for buffer in model.buffers():
            buffer.zero_()
    return written(model)


def learned(model: Any, shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Any]:
    """The entries that all goldens have, after the backward pass: tensors, gradients, versions."""
    d = {key: x.astype(np.float64) for key, x in gradients(model).items()}
    assert set(d) == set(shapes), set(d) ^ set(shapes)
    return {
        "tensors": json.dumps(shapes),
        "seed": seed,
        "gradients": np.float32([np.linalg.norm(d[key]) for key in shapes]),
        "projections": np.float32([np.sum(d[key] * golden.noise(key, shapes[key], seed + 1)) for key in shapes]),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def logits(model: Any, tokens: np.ndarray, mask: np.ndarray | None = None) -> torch.Tensor:
    if mask is not None and model.config.model_type in ALONE:
        each = [logits(model, row[None, real == 1])[0] for row, real in zip(tokens, mask)]
        return torch.stack([torch.nn.functional.pad(x, (0, 0, tokens.shape[1] - len(x), 0)) for x in each])
    inputs = {"input_ids": torch.tensor(tokens, dtype=torch.long)}
    if mask is not None:
        inputs["attention_mask"] = torch.tensor(mask, dtype=torch.long)
        if "position_ids" in inspect.signature(model.forward).parameters:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return model(**inputs, use_cache=False).logits


def greedy(model: Any, tokens: np.ndarray, mask: np.ndarray, new: int = NEW) -> tuple[np.ndarray, float]:
    """The tokens that follow, everything computed anew for each, and the least gap to the second best logit."""
    gaps = []
    for _ in range(new):
        with torch.no_grad():
            last = logits(model, tokens, mask)[:, -1].numpy()
        best = np.sort(last, -1)
        gaps.append((best[:, -1] - best[:, -2]).min() / np.abs(last).max())
        tokens = np.concatenate([tokens, last.argmax(-1)[:, None]], 1)
        mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
    return tokens[:, -new:], float(min(gaps))


def decoded(model: Any, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The tokens that follow as transformers' own decoding with a cache has them."""
    inputs = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(mask)}
    how = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW, "pad_token_id": 0, "eos_token_id": None}
    return model.generate(**inputs, **how)[:, -NEW:].numpy()


def rows(name: str, seed: int, length: int, V: int) -> np.ndarray:
    """Random tokens, none of them special: the embedding of padding has no gradient."""
    bits = (32 * golden.noise(name, (ROWS, length, 2), seed)).astype(np.int64)
    return 3 + (bits @ [64, 1]) % (V - 3)


def left_padded(tokens: np.ndarray, pads: int) -> tuple[np.ndarray, np.ndarray]:
    mask = np.ones(tokens.shape, np.int64)
    mask[-1, :pads] = 0
    return tokens * mask, mask


def compute(name: str, shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Any] | None:
    """The entries of expected.npz, None if this seed will not do."""
    weights = golden.weights(shapes, seed)
    model = opened(name, weights)
    V = model.config.vocab_size
    prompts, prompts_mask = left_padded(rows("prompts", seed, PROMPT, V), 3)
    following, gap = greedy(model, prompts, prompts_mask)
    noisy = {key: np.float32(x * (1 + 1e-5 * golden.noise(key, x.shape, seed + 1))) for key, x in weights.items()}
    noisy = opened(name, noisy)
    same = np.array_equal(following, greedy(noisy, prompts, prompts_mask)[0])
    if name not in RECOMPUTED:
        same &= np.array_equal(following, decoded(model, prompts, prompts_mask))
    if not same or gap < 1e-3 or min(len(set(row)) for row in following) < 3:
        return None
    tokens = rows("tokens", seed, LENGTH, V)
    padded, mask = left_padded(rows("padded", seed, LENGTH, V), 6)
    found = logits(model, tokens)
    with torch.no_grad():
        moved = (found - logits(noisy, tokens)).abs().max() / found.abs().max()
        padded_logits = logits(model, padded, mask).numpy() * mask[..., None].astype(np.float32)
    if moved > 3e-4:  # a token is between two experts
        return None
    chances = torch.log_softmax(found[:, :-1], -1)
    loss = -chances.gather(-1, torch.tensor(tokens)[:, 1:, None]).mean()
    loss.backward()
    found = found.detach().numpy()
    largest = np.abs(found).max()
    print(f"{name}: seed {seed}, largest logit {largest:.2f}, gap {gap:.4f}, moved {moved:.0e}, {following[0]}")
    return {
        **learned(model, shapes, seed),
        "tokens": np.int8(tokens),
        "logits": found,
        "loss": loss.item(),
        "padded": np.int8(padded),
        "mask": np.int8(mask),
        "padded_logits": padded_logits,
        "prompts": np.int8(prompts),
        "prompts_mask": np.int8(prompts_mask),
        "greedy": np.int8(following),
    }


def seeds(name: str) -> Iterator[dict[str, Any]]:
    shapes = {key: x.shape for key, x in sorted(written(opened(name)).items())}
    tried = (compute(name, shapes, seed) for seed in itertools.count())
    return (entries for entries in tried if entries is not None)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for name in sys.argv[1:] or golden.NAMES:
        np.savez_compressed(golden.FOLDER / name / "expected.npz", **next(seeds(name)))
