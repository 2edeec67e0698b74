"""BLOOM (BigScience; Le Scao et al. 2022, arXiv 2211.05100): ALiBi instead of positions, a norm after the embedding.

46 languages and 13 programming languages in 250,680 tokens, padded to 250,880.
"""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(N: int, D: int, H: int) -> LMConfig:
    return lm_config(
        {
            "model_type": "bloom",
            "vocab_size": 250_880,
            "hidden_size": D,
            "n_layer": N,
            "n_head": H,
            "layer_norm_epsilon": 1e-5,
            "apply_residual_connection_post_layernorm": False,
            "tie_word_embeddings": True,
        }
    )


def bloom_560m() -> RunConfig:
    """BLOOM 560M, 24 x 1024: 559,214,592 parameters (Le Scao et al. 2022, arXiv 2211.05100).

        jaxlm train bloom_560m 'data.sources.0.path=my_text/*.txt'

    Training state of 8.9 GB: one device of 16 GB. Trained on 341B tokens: about 33 H100-days.
    """
    return pretrain(model(N=24, D=1024, H=16), T=2048, tokens=3.41e11, batch=256, learning_rate=3e-4)


def bloom_1b1() -> RunConfig:
    """BLOOM 1.1B, 24 x 1536: 1,065,314,304 parameters (Le Scao et al. 2022, arXiv 2211.05100).

        jaxlm train bloom_1b1 'data.sources.0.path=my_text/*.txt'

    Training state of 17 GB: one device of 80 GB. Trained on 341B tokens: about 64 H100-days.
    """
    return pretrain(model(N=24, D=1536, H=16), T=2048, tokens=3.41e11, batch=256, learning_rate=2.5e-4)


def bloom_1b7() -> RunConfig:
    """BLOOM 1.7B, 24 x 2048: 1,722,408,960 parameters (Le Scao et al. 2022, arXiv 2211.05100).

        jaxlm train bloom_1b7 'data.sources.0.path=my_text/*.txt'

    Training state of 28 GB: one device of 80 GB. Trained on 341B tokens: about 100 H100-days.
    """
    return pretrain(model(N=24, D=2048, H=16), T=2048, tokens=3.41e11, batch=512, learning_rate=2e-4)


def bloom_3b() -> RunConfig:
    """BLOOM 3B, 30 x 2560: 3,002,557,440 parameters (Le Scao et al. 2022, arXiv 2211.05100).

        jaxlm train bloom_3b 'data.sources.0.path=my_text/*.txt'

    Training state of 48 GB: one device of 80 GB. Trained on 341B tokens: about 180 H100-days.
    """
    return pretrain(model(N=30, D=2560, H=32), T=2048, tokens=3.41e11, batch=512, learning_rate=1.6e-4)


def bloom_7b1() -> RunConfig:
    """BLOOM 7.1B, 30 x 4096: 7,069,016,064 parameters (Le Scao et al. 2022, arXiv 2211.05100).

        jaxlm train bloom_7b1 'data.sources.0.path=my_text/*.txt'

    Training state of 113 GB: from 4 devices of 80 GB. Trained on 341B tokens: about 420 H100-days.
    """
    return pretrain(model(N=30, D=4096, H=32), T=2048, tokens=3.41e11, batch=512, learning_rate=1.2e-4)


def bloom_176b() -> RunConfig:
    """BLOOM 176B, 70 x 14336: 176,247,271,424 parameters (Le Scao et al. 2022, arXiv 2211.05100).

        jaxlm train bloom_176b 'data.sources.0.path=my_text/*.txt'

    Training state of 2,820 GB: from 64 devices of 80 GB. Trained on 366B tokens: about 11,000 H100-days.
    """
    return pretrain(model(N=70, D=14336, H=112), T=2048, tokens=3.66e11, batch=2048, learning_rate=6e-5)
