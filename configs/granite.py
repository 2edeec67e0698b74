"""Granite 3.0 (IBM 2024): Llama with multipliers on embedding, attention, residual branches and logits."""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(N: int, D: int, F: int, attention: float, logits: float) -> LMConfig:
    """Scores are multiplied by `attention` (1 / K here), logits divided by `logits`."""
    return lm_config(
        {
            "model_type": "granite",
            "vocab_size": 49_152,
            "hidden_size": D,
            "intermediate_size": F,
            "num_hidden_layers": N,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "hidden_act": "silu",
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "embedding_multiplier": 12.0,
            "attention_multiplier": attention,
            "residual_multiplier": 0.22,
            "logits_scaling": logits,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
        }
    )


def granite_3_2b() -> RunConfig:
    """Granite 3.0 2B, 40 x 2048: 2,533,525,504 parameters (IBM's Granite 3.0 report, 2024).

        jaxlm train granite_3_2b 'data.sources.0.path=my_text/*.txt'

    Training state of 41 GB: one device of 80 GB. Trained on 12T tokens: about 5,300 H100-days.
    """
    return pretrain(model(N=40, D=2048, F=8192, attention=1 / 64, logits=8.0), T=4096, tokens=1.2e13, batch=1024)


def granite_3_8b() -> RunConfig:
    """Granite 3.0 8B, 40 x 4096: 8,170,835,968 parameters (IBM's Granite 3.0 report, 2024).

        jaxlm train granite_3_8b 'data.sources.0.path=my_text/*.txt'

    Training state of 131 GB: from 4 devices of 80 GB. Trained on 12T tokens: about 17,000 H100-days.
    """
    return pretrain(model(N=40, D=4096, F=12800, attention=1 / 128, logits=16.0), T=4096, tokens=1.2e13, batch=1024)
