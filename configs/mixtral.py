"""Mixtral (Jiang et al. 2024, arXiv 2401.04088): Mistral's attention, and two of eight experts for each token."""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(N: int, D: int, F: int, H: int, V: int, T: int) -> LMConfig:
    return lm_config(
        {
            "model_type": "mixtral",
            "vocab_size": V,
            "hidden_size": D,
            "intermediate_size": F,
            "num_hidden_layers": N,
            "num_attention_heads": H,
            "num_key_value_heads": 8,
            "hidden_act": "silu",
            "max_position_embeddings": T,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1_000_000.0,
            "sliding_window": None,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "tie_word_embeddings": False,
        }
    )


def mixtral_8x7b() -> RunConfig:
    """Mixtral 8x7B, 32 x 4096: 46,702,792,704 parameters, 12.9B active (Jiang et al. 2024, arXiv 2401.04088).

        jaxlm train mixtral_8x7b 'data.sources.0.path=my_text/*.txt'

    Training state of 747 GB: from 16 devices of 80 GB. A run of 2T tokens: about 4,500 H100-days. How many it saw is
    not published.
    """
    return pretrain(model(N=32, D=4096, F=14336, H=32, V=32_000, T=32_768), T=8192, tokens=2e12, batch=512)


def mixtral_8x22b() -> RunConfig:
    """Mixtral 8x22B, 56 x 6144: 140,630,071,296 parameters, 39.2B active (Mistral's model card, 2024).

        jaxlm train mixtral_8x22b 'data.sources.0.path=my_text/*.txt'

    Training state of 2,250 GB: from 64 devices of 80 GB. A run of 2T tokens: about 14,000 H100-days. How many it saw is
    not published. The vocabulary is the instructed model's.
    """
    return pretrain(model(N=56, D=6144, F=16384, H=48, V=32_768, T=65_536), T=8192, tokens=2e12, batch=512)
