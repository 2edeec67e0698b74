"""GLM-4 9B (GLM Team 2024, arXiv 2406.12793): Llama with biases on queries, keys and values, and half of each
head rotated.
"""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(N: int, D: int, F: int, H: int, G: int) -> LMConfig:
    return lm_config(
        {
            "model_type": "glm",
            "vocab_size": 151_552,
            "hidden_size": D,
            "intermediate_size": F,
            "num_hidden_layers": N,
            "num_attention_heads": H,
            "num_key_value_heads": G,
            "head_dim": 128,
            "partial_rotary_factor": 0.5,
            "hidden_act": "silu",
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1.5625e-7,
            "rope_theta": 10_000.0,
            "attention_bias": True,
            "tie_word_embeddings": False,
        }
    )


def glm_4_9b() -> RunConfig:
    """GLM-4 9B, 40 x 4096: 9,399,951,360 parameters (GLM Team 2024, arXiv 2406.12793).

        jaxlm train glm_4_9b 'data.sources.0.path=my_text/*.txt'

    Training state of 150 GB: from 4 devices of 80 GB. Trained on 10T tokens: about 17,000 H100-days.
    """
    return pretrain(model(N=40, D=4096, F=13696, H=32, G=2), T=8192, tokens=1e13, batch=512)
