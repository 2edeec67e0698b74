#!/usr/bin/env python3
"""Compute tests/goldens_decode/parity.npz: what transformers writes through several logits processors at once, greedily
and by beams, on folders of reference models: scripts/make_parity_goldens.py FOLDER; needs the `parity` extra."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

FILE = Path(__file__).resolve().parents[1] / "tests/goldens_decode/parity.npz"
RECURRENT = ("mamba", "mamba2", "recurrent_gemma", "rwkv", "xlstm")
HOW = {
    **{"max_new_tokens": 12, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0},
    **{"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "bad_words_ids": [[1], [5]]},
    "sequence_bias": [[[3], 2.5], [[9], -4.0]],
}
found = {"transformers": transformers.__version__}
for path in sorted(Path(sys.argv[1]).glob("*/info.json")):
    name, folder = path.parent.name, path.parent
    if json.loads(path.read_text())["kind"] != "causal" and name not in RECURRENT:
        continue
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()
    with np.load(folder / "inputs.npz") as inputs, np.load(folder / "expected.npz") as expected:
        prompts, end = torch.tensor(inputs["prompt_ids"]).long(), int(expected["beam_eos_token_id"])
    for kind, beams in (("greedy", 1), ("beams", 3)):
        out = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), eos_token_id=end, num_beams=beams, **HOW
        )
        new = out[:, prompts.shape[1] :].numpy()
        new = np.pad(new, ((0, 0), (0, HOW["max_new_tokens"] - new.shape[1])))
        ends = new == end
        found[f"{name}/{kind}"] = np.where(np.cumsum(ends, -1) - ends > 0, -1, new).astype(np.int32)
    print(name, found[f"{name}/greedy"][0], flush=True)
np.savez_compressed(FILE, **found)
