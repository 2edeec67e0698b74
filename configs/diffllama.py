"""DiffLlama: Llama with differential attention (Ye et al. 2024, arXiv 2410.05258), one softmax less another."""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain
from .llama import stretched


def model(N: int, D: int, F: int, H: int, G: int) -> LMConfig:
    return lm_config(
        {
            "model_type": "diffllama",
            "vocab_size": 128_256,
            "hidden_size": D,
            "intermediate_size": F,
            "num_hidden_layers": N,
            "num_attention_heads": H,
            "num_key_value_heads": G,
            "head_dim": 64,
            "hidden_act": "silu",
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "rope_scaling": stretched(32.0),
            "attention_bias": False,
            "lambda_std_dev": 0.1,
            "tie_word_embeddings": True,
        }
    )


def diffllama_375m() -> RunConfig:
    """DiffLlama 375M, 16 x 1024: 374,641,664 parameters (reyllama/DiffLlama-375M; arXiv 2410.05258).

        jaxlm train diffllama_375m 'data.sources.0.path=my_text/*.txt'

    Training state of 6 GB: one device of 16 GB. A run of 10B tokens: about 1 H100-day. How many it saw is not
    published.
    """
    return pretrain(model(N=16, D=1024, F=4096, H=16, G=4), T=2048, tokens=1e10, batch=256)
