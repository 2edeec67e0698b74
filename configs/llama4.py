"""The text models of Llama 4 (Meta's model card, 2025): one of E experts and a shared one, attention in chunks of 8192.

Every fourth layer attends to everything, without rotary positions and with queries whose scale grows with position.
The published totals (109B, 400B) include the vision encoder, about 1B, which is not here.
"""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain
from .llama import stretched


def model(E: int, every: int, qk_norm: bool, T: int, scaling: dict | None = None) -> LMConfig:
    """Experts in every `every`th layer; the other layers are dense and twice as wide."""
    return lm_config(
        {
            "model_type": "llama4_text",
            "vocab_size": 202_048,
            "hidden_size": 5120,
            "intermediate_size": 8192,
            "intermediate_size_mlp": 16_384,
            "num_hidden_layers": 48,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "hidden_act": "silu",
            "max_position_embeddings": T,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "rope_scaling": scaling,
            "no_rope_layers": [1, 1, 1, 0] * 12,
            "attention_chunk_size": 8192,
            "attn_temperature_tuning": True,
            "floor_scale": 8192,
            "attn_scale": 0.1,
            "use_qk_norm": qk_norm,
            "num_local_experts": E,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": every,
            "moe_layers": list(range(every - 1, 48, every)),
            "tie_word_embeddings": False,
        }
    )


def llama_4_scout() -> RunConfig:
    """Llama 4 Scout, 48 x 5120, 16 experts: 107,769,861,120 parameters, 17.2B active (Meta's model card, 2025).

        jaxlm train llama_4_scout 'data.sources.0.path=my_text/*.txt'

    Training state of 1,720 GB: from 32 devices of 80 GB. Trained on 40T tokens: about 120,000 H100-days. The numbers
    are the base model's; the instructed one stretches its positions to 10M.
    """
    return pretrain(
        model(E=16, every=1, qk_norm=True, T=262_144, scaling=stretched(8.0)), T=8192, tokens=4e13, batch=2048
    )


def llama_4_maverick() -> RunConfig:
    """Llama 4 Maverick, 48 x 5120, 128 experts: 400,711,848,960 parameters, 17.2B active (Meta's model card, 2025).

        jaxlm train llama_4_maverick 'data.sources.0.path=my_text/*.txt'

    Training state of 6,410 GB: from 128 devices of 80 GB. Trained on 22T tokens: about 66,000 H100-days.
    """
    return pretrain(model(E=128, every=2, qk_norm=False, T=1_048_576), T=8192, tokens=2.2e13, batch=2048)
