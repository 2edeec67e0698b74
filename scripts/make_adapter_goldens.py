#!/usr/bin/env python3
"""Compute tests/goldens_peft/<name>/ with peft and transformers: scripts/make_adapter_goldens.py

Needs torch, transformers and peft. An adapter of random values on the golden model that the name begins with (see
tests/convert/golden.py), as peft writes it, and the logits with it.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.convert import golden  # noqa: E402 (found by the path above)

TOKENS = np.arange(14).reshape(2, 7) * 5 % 31


def lora(*targets: str, **more: Any) -> Any:
    return peft.LoraConfig(r=3, lora_alpha=6, target_modules=list(targets), init_lora_weights=False, **more)


ADAPTERS = {
    "llama-lora": lora("q_proj", "v_proj", "up_proj", rank_pattern={"v_proj": 2}, alpha_pattern={"up_proj": 5}),
    "llama-dora": lora("q_proj", "o_proj", "down_proj", use_dora=True, use_rslora=True, layers_to_transform=[0]),
    "llama-tables": lora("embed_tokens", "k_proj", modules_to_save=["lm_head"]),
    "gpt2-lora": lora("c_attn", "c_fc", fan_in_fan_out=True),
    "phi3-lora": lora("qkv_proj", "gate_up_proj", "o_proj"),
    "llama-prompt": peft.PromptTuningConfig(num_virtual_tokens=3),
    "gpt2-ptuning": peft.PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=8),
    "llama-prefix": peft.PrefixTuningConfig(num_virtual_tokens=3),
    "qwen2-prefix": peft.PrefixTuningConfig(num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=8),
    "qwen2-ia3": peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
}


def main() -> None:
    for name, settings in ADAPTERS.items():
        torch.manual_seed(0)
        settings.task_type = "CAUSAL_LM"
        with tempfile.TemporaryDirectory() as base:
            golden.write(Path(base), name.partition("-")[0])
            model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            model = peft.get_peft_model(model, settings).eval()
            with torch.no_grad():
                for key, x in model.named_parameters():
                    if "prompt_encoder" in key:
                        x.add_(0.3 * torch.randn_like(x))
                    elif "lora" in key or "ia3" in key:
                        x.mul_(1 + 0.3 * torch.randn_like(x)).add_(0.02 * torch.randn_like(x))
                    elif "modules_to_save" in key:
                        x.add_(0.1 * torch.randn_like(x))
                logits = model(torch.tensor(TOKENS)).logits.numpy()[:, -TOKENS.shape[1] :]  # without a prompt's
            folder = ROOT / "tests" / "goldens_peft" / name
            shutil.rmtree(folder, ignore_errors=True)
            model.save_pretrained(folder)
            (folder / "README.md").unlink(missing_ok=True)
            settings_file = folder / "adapter_config.json"
            settings_file.write_text(settings_file.read_text().replace(base, ""))
            np.savez_compressed(folder / "expected.npz", tokens=TOKENS, logits=logits)


if __name__ == "__main__":
    main()
