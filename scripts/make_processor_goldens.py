#!/usr/bin/env python3
"""Compute tests/goldens_decode/processors.npz with transformers' logits processors; needs the `parity` extra."""

from pathlib import Path

import numpy as np
import torch
from transformers.generation import logits_process as hf

FILE = Path(__file__).resolve().parents[1] / "tests/goldens_decode/processors.npz"

rng = np.random.default_rng(7)
B, T, V = 5, 12, 40
logits = (rng.normal(size=(B, V)) * 3).astype(np.float32)
tokens = rng.integers(0, 8, (B, T))
logits[3] = np.sort(logits[3]) * 2
logits[4] /= 20
processors = {
    "temperature": hf.TemperatureLogitsWarper(0.7),
    "top_k": hf.TopKLogitsWarper(7),
    "top_p": hf.TopPLogitsWarper(0.8),
    "min_p": hf.MinPLogitsWarper(0.1),
    "typical": hf.TypicalLogitsWarper(0.6),
    "typical_high": hf.TypicalLogitsWarper(0.95),
    "epsilon": hf.EpsilonLogitsWarper(0.03),
    "eta": hf.EtaLogitsWarper(0.05),
    "repetition": hf.RepetitionPenaltyLogitsProcessor(1.3),
    "bigrams": hf.NoRepeatNGramLogitsProcessor(2),
    "trigrams": hf.NoRepeatNGramLogitsProcessor(3),
    "unigrams": hf.NoRepeatNGramLogitsProcessor(1),
    "bias": hf.SequenceBiasLogitsProcessor([[[3], 2.5], [[9], -4.0]]),
    "banned": hf.SuppressTokensLogitsProcessor([1, 5], device="cpu"),
    "min_length": hf.MinNewTokensLengthLogitsProcessor(8, 6, [2, 3], device="cpu"),
}
processors["chain"] = hf.LogitsProcessorList(
    processors[name]
    for name in ("bias", "repetition", "bigrams", "temperature", "top_k", "top_p", "min_p", "typical_high")
)
found = {name: f(torch.tensor(tokens), torch.tensor(logits)).numpy() for name, f in processors.items()}
np.savez_compressed(FILE, logits=logits, tokens=tokens, **found)
