"""OPT (Zhang et al. 2022, arXiv 2205.01068): GPT-3's sizes with ReLU; the vocabulary is GPT-2's, padded to 50,272."""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(N: int, D: int, H: int, embedding: int | None = None, norm_first: bool = True) -> LMConfig:
    """`embedding` is the table's width where it is not D."""
    return lm_config(
        {
            "model_type": "opt",
            "vocab_size": 50_272,
            "hidden_size": D,
            "ffn_dim": 4 * D,
            "num_hidden_layers": N,
            "num_attention_heads": H,
            "activation_function": "relu",
            "max_position_embeddings": 2048,
            "word_embed_proj_dim": embedding or D,
            "do_layer_norm_before": norm_first,
            "enable_bias": True,
            "layer_norm_elementwise_affine": True,
            "tie_word_embeddings": True,
        }
    )


def opt_125m() -> RunConfig:
    """OPT 125M, 12 x 768: 125,239,296 parameters (Zhang et al. 2022, arXiv 2205.01068).

        jaxlm train opt_125m 'data.sources.0.path=my_text/*.txt'

    Training state of 2 GB: one device of 16 GB. Trained on 300B tokens: about 7 H100-days.
    """
    return pretrain(model(N=12, D=768, H=12), T=2048, tokens=3e11, batch=256, learning_rate=6e-4)


def opt_350m() -> RunConfig:
    """OPT 350M, 24 x 1024: 331,196,416 parameters (Zhang et al. 2022, arXiv 2205.01068).

        jaxlm train opt_350m 'data.sources.0.path=my_text/*.txt'

    Training state of 5.3 GB: one device of 16 GB. Trained on 300B tokens: about 17 H100-days. The only one with norms
    after the sums, and an embedding half as wide.
    """
    return pretrain(
        model(N=24, D=1024, H=16, embedding=512, norm_first=False), T=2048, tokens=3e11, batch=256, learning_rate=3e-4
    )


def opt_1_3b() -> RunConfig:
    """OPT 1.3B, 24 x 2048: 1,315,758,080 parameters (Zhang et al. 2022, arXiv 2205.01068).

        jaxlm train opt_1_3b 'data.sources.0.path=my_text/*.txt'

    Training state of 21 GB: one device of 80 GB. Trained on 300B tokens: about 69 H100-days.
    """
    return pretrain(model(N=24, D=2048, H=32), T=2048, tokens=3e11, batch=512, learning_rate=2e-4)


def opt_2_7b() -> RunConfig:
    """OPT 2.7B, 32 x 2560: 2,651,596,800 parameters (Zhang et al. 2022, arXiv 2205.01068).

        jaxlm train opt_2_7b 'data.sources.0.path=my_text/*.txt'

    Training state of 42 GB: one device of 80 GB. Trained on 300B tokens: about 140 H100-days.
    """
    return pretrain(model(N=32, D=2560, H=32), T=2048, tokens=3e11, batch=512, learning_rate=1.6e-4)


def opt_6_7b() -> RunConfig:
    """OPT 6.7B, 32 x 4096: 6,658,473,984 parameters (Zhang et al. 2022, arXiv 2205.01068).

        jaxlm train opt_6_7b 'data.sources.0.path=my_text/*.txt'

    Training state of 107 GB: from 2 devices of 80 GB. Trained on 300B tokens: about 350 H100-days.
    """
    return pretrain(model(N=32, D=4096, H=32), T=2048, tokens=3e11, batch=1024, learning_rate=1.2e-4)


def opt_13b() -> RunConfig:
    """OPT 13B, 40 x 5120: 12,853,473,280 parameters (Zhang et al. 2022, arXiv 2205.01068).

        jaxlm train opt_13b 'data.sources.0.path=my_text/*.txt'

    Training state of 206 GB: from 4 devices of 80 GB. Trained on 300B tokens: about 680 H100-days.
    """
    return pretrain(model(N=40, D=5120, H=40), T=2048, tokens=3e11, batch=2048, learning_rate=1e-4)


def opt_30b() -> RunConfig:
    """OPT 30B, 48 x 7168: 29,974,540,288 parameters (Zhang et al. 2022, arXiv 2205.01068).

        jaxlm train opt_30b 'data.sources.0.path=my_text/*.txt'

    Training state of 480 GB: from 16 devices of 80 GB. Trained on 300B tokens: about 1,600 H100-days.
    """
    return pretrain(model(N=48, D=7168, H=56), T=2048, tokens=3e11, batch=2048, learning_rate=1e-4)


def opt_66b() -> RunConfig:
    """OPT 66B, 64 x 9216: 65,719,701,504 parameters (Zhang et al. 2022, arXiv 2205.01068).

        jaxlm train opt_66b 'data.sources.0.path=my_text/*.txt'

    Training state of 1,050 GB: from 32 devices of 80 GB. Trained on 300B tokens: about 3,500 H100-days.
    """
    return pretrain(model(N=64, D=9216, H=72), T=2048, tokens=3e11, batch=1024, learning_rate=8e-5)
