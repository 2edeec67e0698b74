"""Phi-3 (Abdin et al. 2024, arXiv 2404.14219): Llama's block with a window of 2047, contexts of 4096.

The variants for 128k positions are left out: they rescale each rotary frequency by a list of factors of its own.
"""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(N: int, D: int, F: int, H: int, G: int) -> LMConfig:
    return lm_config(
        {
            "model_type": "phi3",
            "vocab_size": 32_064,
            "hidden_size": D,
            "intermediate_size": F,
            "num_hidden_layers": N,
            "num_attention_heads": H,
            "num_key_value_heads": G,
            "hidden_act": "silu",
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "rope_scaling": None,
            "sliding_window": 2047,
            "tie_word_embeddings": False,
        }
    )


def phi3_mini() -> RunConfig:
    """Phi-3-mini-4k, 32 x 3072: 3,821,079,552 parameters (Abdin et al. 2024, arXiv 2404.14219).

        jaxlm train phi3_mini 'data.sources.0.path=my_text/*.txt'

    Training state of 61 GB: from 2 devices of 80 GB. Trained on 3.3T tokens: about 2,200 H100-days.
    """
    return pretrain(model(N=32, D=3072, F=8192, H=32, G=32), T=4096, tokens=3.3e12, batch=1024)


def phi3_medium() -> RunConfig:
    """Phi-3-medium-4k, 40 x 5120: 13,960,238,080 parameters (Abdin et al. 2024, arXiv 2404.14219).

        jaxlm train phi3_medium 'data.sources.0.path=my_text/*.txt'

    Training state of 223 GB: from 4 devices of 80 GB. Trained on 4.8T tokens: about 12,000 H100-days.
    """
    return pretrain(model(N=40, D=5120, F=17920, H=40, G=10), T=4096, tokens=4.8e12, batch=1024)
