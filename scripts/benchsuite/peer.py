"""The other system: transformers on torch, from the weights and ids that the jaxlm piece left in a folder.

Runs in its own environment and imports nothing of jaxlm.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel  # pyright: ignore[reportMissingImports]

from benchsuite.sizes import ADAMW
from benchsuite.timing import seconds_per_step


def train(folder: str, size: dict[str, Any], warm: int, repeats: int, steps: int, compiled: bool) -> dict[str, Any]:
    """As `training.train`: F.cross_entropy over all logits, fused AdamW; the model eager or by torch.compile."""
    model, ids, device = _load(folder, size)
    forward = torch.compile(model) if compiled else model
    tokens, labels = ids[:, :-1], ids[:, 1:].reshape(-1).long()
    half = size["dtype"] != "float32"
    decayed = [p for name, p in model.named_parameters() if p.ndim > 1 and "wpe" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim == 1 or "wpe" in name]
    adamw = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": ADAMW["weight_decay"]}, {"params": others, "weight_decay": 0.0}],
        lr=ADAMW["learning_rate"],
        betas=(0.9, ADAMW["b2"]),
        fused=True,
    )

    def step(tell: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        adamw.zero_grad(set_to_none=True)
        with torch.autocast(device.type, getattr(torch, size["dtype"]), enabled=half):
            logits = forward(input_ids=tokens, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, size["V"]).float(), labels)
        loss.backward()
        norm = _norm(model) if tell else None
        torch.nn.utils.clip_grad_norm_(model.parameters(), ADAMW["clip"])
        adamw.step()
        return loss.detach(), norm

    first = [(float(loss), float(norm)) for loss, norm in (step(tell=True) for _ in range(warm))]
    found = seconds_per_step(step, lambda result: (float(result[0]), _synchronize(device)), repeats, steps)
    return {"seconds": found, "loss": [x for x, _ in first], "grad_norm": [x for _, x in first]} | _peak(device)


def decode(folder: str, size: dict[str, Any], new: int, warm: int, repeats: int, static: bool) -> dict[str, Any]:
    """As `decoding.decode`: greedy `generate` with its cache, which `static` makes fixed in shape and compiled."""
    model, ids, device = _load(folder, size)
    model = model.to(getattr(torch, size["dtype"])).eval()
    kind = {"cache_implementation": "static"} if static else {}

    def step() -> torch.Tensor:
        mask = torch.ones_like(ids)
        with torch.inference_mode():
            return model.generate(
                ids.long(), attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, **kind
            )

    for _ in range(warm):
        tokens = step()
    seconds = seconds_per_step(step, lambda _: _synchronize(device), repeats, 1)
    return {"seconds": seconds, "tokens": tokens[:, ids.shape[1] :].tolist()} | _peak(device)


def _load(folder: str, size: dict[str, Any]) -> tuple[GPT2LMHeadModel, torch.Tensor, torch.device]:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(2)
    config = GPT2Config(
        vocab_size=size["V"],
        n_positions=size["T"],
        n_embd=size["D"],
        n_layer=size["N"],
        n_head=size["H"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    weights = load_file(Path(folder) / "weights.safetensors")
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    model.load_state_dict(weights)
    ids = torch.from_numpy(np.load(Path(folder) / "ids.npz")["ids"])
    return model.to(device), ids.to(device), device


def _norm(model: GPT2LMHeadModel) -> torch.Tensor:
    """The gradient's norm summed in float64: torch's own in float32 is up to 3e-3 too small for 38 million numbers."""
    squares = [p.grad.double().square().sum() for p in model.parameters() if p.grad is not None]
    return torch.stack(squares).sum().sqrt()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _peak(device: torch.device) -> dict[str, float]:
    return {"device_gib": torch.cuda.max_memory_allocated() / 2**30} if device.type == "cuda" else {}
