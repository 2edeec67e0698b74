"""OLMo 2 (OLMo Team 2024, arXiv 2501.00656): norms after mixer and feed-forward, normalised queries and keys."""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(N: int, D: int, F: int, H: int, G: int) -> LMConfig:
    return lm_config(
        {
            "model_type": "olmo2",
            "vocab_size": 100_352,
            "hidden_size": D,
            "intermediate_size": F,
            "num_hidden_layers": N,
            "num_attention_heads": H,
            "num_key_value_heads": G,
            "hidden_act": "silu",
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_theta": 500_000.0,
            "attention_bias": False,
            "tie_word_embeddings": False,
        }
    )


def olmo2_1b() -> RunConfig:
    """OLMo 2 1B, 16 x 2048: 1,484,916,736 parameters (OLMo Team 2024, arXiv 2501.00656).

        jaxlm train olmo2_1b 'data.sources.0.path=my_text/*.txt'

    Training state of 24 GB: one device of 80 GB. Trained on 4T tokens: about 1,000 H100-days.
    """
    return pretrain(model(N=16, D=2048, F=8192, H=16, G=16), T=4096, tokens=4e12, batch=512, learning_rate=4e-4)


def olmo2_7b() -> RunConfig:
    """OLMo 2 7B, 32 x 4096: 7,298,617,344 parameters (OLMo Team 2024, arXiv 2501.00656).

        jaxlm train olmo2_7b 'data.sources.0.path=my_text/*.txt'

    Training state of 117 GB: from 4 devices of 80 GB. Trained on 4T tokens: about 5,100 H100-days.
    """
    return pretrain(model(N=32, D=4096, F=11008, H=32, G=32), T=4096, tokens=4e12, batch=1024, learning_rate=3e-4)


def olmo2_13b() -> RunConfig:
    """OLMo 2 13B, 40 x 5120: 13,716,198,400 parameters (OLMo Team 2024, arXiv 2501.00656).

        jaxlm train olmo2_13b 'data.sources.0.path=my_text/*.txt'

    Training state of 219 GB: from 4 devices of 80 GB. Trained on 5T tokens: about 12,000 H100-days.
    """
    return pretrain(model(N=40, D=5120, F=13824, H=40, G=40), T=4096, tokens=5e12, batch=2048, learning_rate=9e-4)


def olmo2_32b() -> RunConfig:
    """OLMo 2 32B, 64 x 5120: 32,234,279,936 parameters (OLMo Team 2024, arXiv 2501.00656).

        jaxlm train olmo2_32b 'data.sources.0.path=my_text/*.txt'

    Training state of 516 GB: from 16 devices of 80 GB. Trained on 6T tokens: about 34,000 H100-days.
    """
    return pretrain(model(N=64, D=5120, F=27648, H=40, G=8), T=4096, tokens=6e12, batch=2048, learning_rate=6e-4)
