#!/usr/bin/env python3
"""Compute tests/goldens_families/<name>.npz with transformers: scripts/make_family_goldens.py [NAME ...]

Needs the `parity` extra. What is in the files: tests/convert/golden_families.py. To add one, write its options into
configs.json there and run this; seeds are chosen as scripts/make_goldens.py says.
"""

import itertools
import sys
from typing import Any

import make_goldens as one
import numpy as np
import torch
import transformers

from tests.convert import golden
from tests.convert import golden_families as goldens

LENGTH, PROMPT = 14, 6
SEEDS = 60  # that are tried


def compute(name: str, shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Any] | None:
    """The entries of a file, None if this seed will not do."""
    weights = golden.weights(shapes, seed)
    model = one.opened(name, weights, goldens.config)
    V, new = model.config.get_text_config().vocab_size, LENGTH - PROMPT
    prompts, prompts_mask = one.left_padded(one.rows("prompts", seed, PROMPT, V), 2)
    following, gap = one.greedy(model, prompts, prompts_mask, new)
    if gap < 1e-3 or min(len(set(row)) for row in following) < 2:
        return None
    noisy = {key: np.float32(x * (1 + 1e-5 * golden.noise(key, x.shape, seed + 1))) for key, x in weights.items()}
    noisy = one.opened(name, noisy, goldens.config)
    padded, padded_mask = one.left_padded(one.rows("padded", seed, LENGTH, V), 4)
    tokens = one.rows("tokens", seed, LENGTH, V)
    whole = np.concatenate([prompts, following], 1)
    whole_mask = np.pad(prompts_mask, ((0, 0), (0, new)), constant_values=1)
    mask = np.concatenate([padded_mask, whole_mask])
    found = one.logits(model, tokens)
    with torch.no_grad():
        rest = one.logits(model, np.concatenate([padded, whole]), mask)
        near = one.logits(noisy, np.concatenate([padded, whole]), mask)
        moved = ((rest - near).abs() * torch.tensor(mask)[..., None]).max() / found.abs().max()
        moved = max(moved, (found - one.logits(noisy, tokens)).abs().max() / found.abs().max())
    if moved > 3e-4:  # a token is between two experts
        return None
    chances = torch.log_softmax(found[:, :-1], -1)
    loss = -chances.gather(-1, torch.tensor(tokens)[:, 1:, None]).mean()
    loss.backward()
    logits = np.concatenate([found.detach().numpy(), rest.numpy() * mask[..., None].astype(np.float32)])
    print(
        f"{name}: seed {seed}, largest logit {np.abs(logits).max():.2f}, gap {gap:.4f}, moved {moved:.0e}", flush=True
    )
    return {
        **one.learned(model, shapes, seed),
        "tokens": np.int8(np.concatenate([tokens, padded, whole])),
        "mask": np.int8(np.concatenate([np.ones_like(padded_mask), mask])),
        "logits": logits,
        "loss": loss.item(),
        "greedy": np.int8(following),
    }


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for name in sys.argv[1:] or goldens.CONFIGS:
        made = one.written(one.opened(name, config=goldens.config))
        shapes = {key: x.shape for key, x in sorted(made.items())}
        tried = (compute(name, shapes, seed) for seed in itertools.islice(itertools.count(), SEEDS))
        entries = next((entries for entries in tried if entries is not None), None)
        if entries is None:
            sys.exit(f"{name}: none of {SEEDS} seeds will do")
        np.savez_compressed(goldens.FOLDER / f"{name}.npz", **entries)
