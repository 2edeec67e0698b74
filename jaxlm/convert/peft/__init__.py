"""Adapters in peft's layout: adapter_config.json beside adapter_model.safetensors, LoRA (with rsLoRA and DoRA), IA3,
and virtual tokens (prompt tuning, P-tuning, prefix tuning; see `virtual`).

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight      (r, inputs)
    base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight      (outputs, r)

beside them .lora_magnitude_vector (outputs), .lora_embedding_A (r, V), .lora_embedding_B (D, r), and .ia3_l, that is
(outputs, 1) or (1, inputs). A tensor of any other name stands for the base's own.
"""

from jaxlm.convert.peft.load import load
from jaxlm.convert.peft.save import save
from jaxlm.convert.peft.virtual import alone

__all__ = ["alone", "load", "save"]
