"""GPT-NeoX-20B (Black et al. 2022, arXiv 2204.06745) and Pythia (Biderman et al. 2023, arXiv 2304.01373).

Attention and feed-forward side by side, each with a norm of its own; a quarter of each head is rotated; the head is not
tied. All saw the Pile, cut into 2048 tokens. The vocabulary's padding differs with the devices each was trained on.
"""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(N: int, D: int, H: int, V: int = 50_304, activation: str = "gelu") -> LMConfig:
    return lm_config(
        {
            "model_type": "gpt_neox",
            "vocab_size": V,
            "hidden_size": D,
            "intermediate_size": 4 * D,
            "num_hidden_layers": N,
            "num_attention_heads": H,
            "hidden_act": activation,
            "max_position_embeddings": 2048,
            "layer_norm_eps": 1e-5,
            "rotary_pct": 0.25,
            "rotary_emb_base": 10_000,
            "use_parallel_residual": True,
            "attention_bias": True,
            "tie_word_embeddings": False,
        }
    )


def gpt_neox_20b() -> RunConfig:
    """GPT-NeoX-20B, 44 x 6144: 20,554,567,680 parameters (Black et al. 2022, arXiv 2204.06745).

        jaxlm train gpt_neox_20b 'data.sources.0.path=my_text/*.txt'

    Training state of 329 GB: from 8 devices of 80 GB. Trained on 472B tokens: about 1,700 H100-days.
    """
    return pretrain(
        model(N=44, D=6144, H=64, V=50_432, activation="gelu_fast"),
        T=2048,
        tokens=4.72e11,
        batch=1536,
        learning_rate=9.7e-5,
    )


def pythia_14m() -> RunConfig:
    """Pythia 14M, 6 x 128: 14,067,712 parameters (Biderman et al. 2023, arXiv 2304.01373).

        jaxlm train pythia_14m 'data.sources.0.path=my_text/*.txt'

    Training state of 0.23 GB: one device of 16 GB. Trained on 300B tokens: about 1 H100-day.
    """
    return pretrain(model(N=6, D=128, H=4), T=2048, tokens=3e11, batch=1024, learning_rate=1e-3)


def pythia_31m() -> RunConfig:
    """Pythia 31M, 6 x 256: 30,494,720 parameters (Biderman et al. 2023, arXiv 2304.01373).

        jaxlm train pythia_31m 'data.sources.0.path=my_text/*.txt'

    Training state of 0.49 GB: one device of 16 GB. Trained on 300B tokens: about 2 H100-days.
    """
    return pretrain(model(N=6, D=256, H=8), T=2048, tokens=3e11, batch=1024, learning_rate=1e-3)


def pythia_70m() -> RunConfig:
    """Pythia 70M, 6 x 512: 70,426,624 parameters (Biderman et al. 2023, arXiv 2304.01373).

        jaxlm train pythia_70m 'data.sources.0.path=my_text/*.txt'

    Training state of 1.1 GB: one device of 16 GB. Trained on 300B tokens: about 4 H100-days.
    """
    return pretrain(model(N=6, D=512, H=8), T=2048, tokens=3e11, batch=1024, learning_rate=1e-3)


def pythia_160m() -> RunConfig:
    """Pythia 160M, 12 x 768: 162,322,944 parameters (Biderman et al. 2023, arXiv 2304.01373).

        jaxlm train pythia_160m 'data.sources.0.path=my_text/*.txt'

    Training state of 2.6 GB: one device of 16 GB. Trained on 300B tokens: about 9 H100-days.
    """
    return pretrain(model(N=12, D=768, H=12), T=2048, tokens=3e11, batch=1024, learning_rate=6e-4)


def pythia_410m() -> RunConfig:
    """Pythia 410M, 24 x 1024: 405,334,016 parameters (Biderman et al. 2023, arXiv 2304.01373).

        jaxlm train pythia_410m 'data.sources.0.path=my_text/*.txt'

    Training state of 6.5 GB: one device of 16 GB. Trained on 300B tokens: about 21 H100-days.
    """
    return pretrain(model(N=24, D=1024, H=16), T=2048, tokens=3e11, batch=1024, learning_rate=3e-4)


def pythia_1b() -> RunConfig:
    """Pythia 1B, 16 x 2048: 1,011,781,632 parameters (Biderman et al. 2023, arXiv 2304.01373).

        jaxlm train pythia_1b 'data.sources.0.path=my_text/*.txt'

    Training state of 16 GB: one device of 80 GB. Trained on 300B tokens: about 53 H100-days.
    """
    return pretrain(model(N=16, D=2048, H=8), T=2048, tokens=3e11, batch=1024, learning_rate=3e-4)


def pythia_1_4b() -> RunConfig:
    """Pythia 1.4B, 24 x 2048: 1,414,647,808 parameters (Biderman et al. 2023, arXiv 2304.01373).

        jaxlm train pythia_1_4b 'data.sources.0.path=my_text/*.txt'

    Training state of 23 GB: one device of 80 GB. Trained on 300B tokens: about 74 H100-days.
    """
    return pretrain(model(N=24, D=2048, H=16), T=2048, tokens=3e11, batch=1024, learning_rate=2e-4)


def pythia_2_8b() -> RunConfig:
    """Pythia 2.8B, 32 x 2560: 2,775,208,960 parameters (Biderman et al. 2023, arXiv 2304.01373).

        jaxlm train pythia_2_8b 'data.sources.0.path=my_text/*.txt'

    Training state of 44 GB: one device of 80 GB. Trained on 300B tokens: about 150 H100-days.
    """
    return pretrain(model(N=32, D=2560, H=32), T=2048, tokens=3e11, batch=1024, learning_rate=1.6e-4)


def pythia_6_9b() -> RunConfig:
    """Pythia 6.9B, 32 x 4096: 6,857,302,016 parameters (Biderman et al. 2023, arXiv 2304.01373).

        jaxlm train pythia_6_9b 'data.sources.0.path=my_text/*.txt'

    Training state of 110 GB: from 2 devices of 80 GB. Trained on 300B tokens: about 360 H100-days.
    """
    return pretrain(model(N=32, D=4096, H=32, V=50_432), T=2048, tokens=3e11, batch=1024, learning_rate=1.2e-4)


def pythia_12b() -> RunConfig:
    """Pythia 12B, 36 x 5120: 11,846,072,320 parameters (Biderman et al. 2023, arXiv 2304.01373).

        jaxlm train pythia_12b 'data.sources.0.path=my_text/*.txt'

    Training state of 190 GB: from 4 devices of 80 GB. Trained on 300B tokens: about 620 H100-days.
    """
    return pretrain(model(N=36, D=5120, H=40, V=50_688), T=2048, tokens=3e11, batch=1024, learning_rate=1.2e-4)
