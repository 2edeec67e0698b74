"""Mistral 7B (Jiang et al. 2023, arXiv 2310.06825), Llama with sliding-window attention, and Mistral NeMo without."""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(N: int, D: int, F: int, K: int, V: int, T: int, theta: float, window: int | None) -> LMConfig:
    return lm_config(
        {
            "model_type": "mistral",
            "vocab_size": V,
            "hidden_size": D,
            "intermediate_size": F,
            "num_hidden_layers": N,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": K,
            "hidden_act": "silu",
            "max_position_embeddings": T,
            "rms_norm_eps": 1e-5,
            "rope_theta": theta,
            "sliding_window": window,
            "tie_word_embeddings": False,
        }
    )


def mistral_7b() -> RunConfig:
    """Mistral 7B v0.1, 32 x 4096, window 4096: 7,241,732,096 parameters (arXiv 2310.06825).

        jaxlm train mistral_7b 'data.sources.0.path=my_text/*.txt'

    Training state of 116 GB: from 4 devices of 80 GB. A run of 2T tokens: about 2,500 H100-days. How many it saw is not
    published.
    """
    return pretrain(
        model(N=32, D=4096, F=14336, K=128, V=32_000, T=32_768, theta=10_000.0, window=4096),
        T=8192,
        tokens=2e12,
        batch=512,
    )


def mistral_nemo_12b() -> RunConfig:
    """Mistral NeMo, 40 x 5120: 12,247,782,400 parameters (Mistral and NVIDIA's model card, 2024).

        jaxlm train mistral_nemo_12b 'data.sources.0.path=my_text/*.txt'

    Training state of 196 GB: from 4 devices of 80 GB. A run of 2T tokens: about 4,300 H100-days. How many it saw is not
    published.
    """
    return pretrain(
        model(N=40, D=5120, F=14336, K=128, V=131_072, T=131_072, theta=1_000_000.0, window=None),
        T=8192,
        tokens=2e12,
        batch=512,
    )
