"""ALBERT (Lan et al. 2019, arXiv 1909.11942): twelve or more layers with the weights of one."""

from jaxlm.convert import lm_config
from jaxlm.models import EncoderConfig
from jaxlm.run import RunConfig

from ._masked import pretrain


def albert(N: int, D: int, H: int) -> EncoderConfig:
    """Of 30,000 pieces, with heads for hidden tokens and for the order of two texts."""
    sizes = {"hidden_size": D, "num_hidden_layers": N, "num_attention_heads": H, "intermediate_size": 4 * D}
    kind = {"model_type": "albert", "architectures": ["AlbertForPreTraining"], "embedding_size": 128}
    return lm_config(kind | sizes | {"vocab_size": 30_000, "max_position_embeddings": 512, "type_vocab_size": 2})


def albert_base() -> RunConfig:
    """ALBERT base, 12 x 768: 11,813,810 parameters (Lan et al. 2019, arXiv 1909.11942, which says 12M).

        jaxlm train albert_base 'data.sources.0.path=my_text/*.txt'

    Training state of 0.2 GB. 125,000 steps of 4,096 rows, 262B tokens, each through twelve layers: about 5 H100-days.
    """
    return pretrain(albert(12, 768, 12), T=512, tokens=2.62e11, batch=4096, learning_rate=1.76e-3)


def albert_large() -> RunConfig:
    """ALBERT large, 24 x 1024: 17,847,474 parameters (Lan et al. 2019, arXiv 1909.11942, which says 18M).

        jaxlm train albert_large 'data.sources.0.path=my_text/*.txt'

    Training state of 0.3 GB. 262B tokens as ALBERT base: about 15 H100-days.
    """
    return pretrain(albert(24, 1024, 16), T=512, tokens=2.62e11, batch=4096, learning_rate=1.76e-3)


def albert_xlarge() -> RunConfig:
    """ALBERT xlarge, 24 x 2048: 59,021,490 parameters (Lan et al. 2019, arXiv 1909.11942, which says 60M).

        jaxlm train albert_xlarge 'data.sources.0.path=my_text/*.txt'

    Training state of 0.9 GB. 262B tokens as ALBERT base: about 58 H100-days.
    """
    return pretrain(albert(24, 2048, 16), T=512, tokens=2.62e11, batch=4096, learning_rate=1.76e-3)


def albert_xxlarge() -> RunConfig:
    """ALBERT xxlarge, 12 x 4096: 223,158,450 parameters (Lan et al. 2019, arXiv 1909.11942, which says 235M).

        jaxlm train albert_xxlarge 'data.sources.0.path=my_text/*.txt'

    Training state of 3.6 GB. 262B tokens as ALBERT base: about 114 H100-days.
    """
    return pretrain(albert(12, 4096, 64), T=512, tokens=2.62e11, batch=4096, learning_rate=1.76e-3)
