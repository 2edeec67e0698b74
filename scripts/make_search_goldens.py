#!/usr/bin/env python3
"""Compute tests/goldens_decode/searches.npz: contrastive search, diverse and sampled beams of two golden models.

Needs transformers 4.49 or so, in which all three are: later ones take the first two from code on its hub.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.convert import golden  # noqa: E402 (found by the path above)

FILE = ROOT / "tests/goldens_decode/searches.npz"
NEW, DRAWS = 12, 4000
ENDS = {"gpt2": 48, "llama_linear": 20}  # tokens that they write
CASES = {
    "contrastive": {"penalty_alpha": 0.6, "top_k": 4},
    "contrastive_penalised": {"penalty_alpha": 0.4, "top_k": 6, "repetition_penalty": 1.3, "eos_token_id": True},
    "diverse": {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.7},
    "diverse_single": {"num_beams": 3, "num_beam_groups": 3, "diversity_penalty": 1.5, "length_penalty": 2.0},
    # Their lengths leave the end token out, those of later versions do not: without a length penalty it is all one.
    "diverse_ended": {
        **{"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5, "length_penalty": 0.0},
        **{"eos_token_id": True, "early_stopping": True, "no_repeat_ngram_size": 2},
    },
}
found: dict = {"transformers": transformers.__version__}
for name, end in ENDS.items():
    e = golden.expected(name)
    with tempfile.TemporaryDirectory() as folder:
        golden.write(Path(folder), name)
        config = transformers.AutoConfig.from_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        left = model.load_state_dict(load_file(Path(folder, "model.safetensors")), strict=False)
    assert not left.unexpected_keys and set(left.missing_keys) <= {"lm_head.weight"}, left
    model.tie_weights()
    # Each prompt alone: penalties would count the padding.
    prompts = [torch.tensor(row[real].astype(np.int64))[None] for row, real in zip(e["prompts"], e["prompts_mask"] > 0)]
    for case, how in CASES.items():
        beams = how.get("num_beams", 1)
        how = {"max_new_tokens": NEW, "eos_token_id": None, "pad_token_id": 0, "do_sample": False} | how
        how["eos_token_id"] = end if how["eos_token_id"] else None
        how |= {"num_return_sequences": beams, "return_dict_in_generate": True, "output_scores": beams > 1}
        tokens, scores = [], []
        for ids in prompts:
            out = model.generate(ids, attention_mask=torch.ones_like(ids), **how)
            new = out.sequences[:, ids.shape[1] :].numpy()
            new = np.pad(new, ((0, 0), (0, NEW - new.shape[-1])))
            ends = new == end if how["eos_token_id"] else new < 0
            tokens.append(np.where(np.cumsum(ends, -1) - ends > 0, -1, new).astype(np.int32))
            scores.append(out.sequences_scores.numpy() if beams > 1 else ())
        found[f"{name}/{case}"] = np.stack(tokens)
        if beams > 1:
            found[f"{name}/{case}_scores"] = np.stack(scores)
    torch.manual_seed(0)
    rows, T = prompts[0].repeat(DRAWS, 1), prompts[0].shape[1]
    how = {"num_beams": 2, "do_sample": True, "top_k": 0, "temperature": 1.0, "eos_token_id": None, "pad_token_id": 0}
    drawn = model.generate(rows, attention_mask=torch.ones_like(rows), **how, max_new_tokens=2)[:, T:].numpy()
    found[f"{name}/sampled"] = np.bincount(drawn[:, 0] * 61 + drawn[:, 1], minlength=61 * 61).astype(np.int32)
np.savez_compressed(FILE, **found)
for key, x in found.items():
    print(key, np.shape(x))
