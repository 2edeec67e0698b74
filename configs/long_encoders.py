"""Encoders of long texts: Longformer (Beltagy et al. 2020, arXiv 2004.05150) and BigBird (Zaheer et al. 2020, arXiv
2007.14062)."""

from jaxlm.convert import lm_config
from jaxlm.run import RunConfig

from ._masked import pretrain

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
LONGFORMER = {"model_type": "longformer", "architectures": ["LongformerForMaskedLM"], "attention_window": 512}
LONGFORMER |= {"vocab_size": 50_265, "max_position_embeddings": 4098, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
BIG_BIRD = {"model_type": "big_bird", "architectures": ["BigBirdForPreTraining"], "attention_type": "block_sparse"}
BIG_BIRD |= {"vocab_size": 50_358, "max_position_embeddings": 4096, "type_vocab_size": 2}


def longformer_base() -> RunConfig:
    """Longformer base for 4,096 tokens, 12 x 768: 148,711,257 parameters (Beltagy et al. 2020, arXiv 2004.05150).

        jaxlm train longformer_base 'data.sources.0.path=my_text/*.txt'

    Training state of 2.4 GB: one device of 16 GB. The authors' goes on from RoBERTa base, for 65,000 steps of 64 rows,
    17B tokens: about 11 H100-hours.
    """
    return pretrain(lm_config(LONGFORMER | BASE), T=4096, tokens=1.7e10, batch=64, learning_rate=3e-5)


def longformer_large() -> RunConfig:
    """Longformer large for 4,096 tokens, 24 x 1024: 434,653,273 parameters (Beltagy et al. 2020, arXiv 2004.05150).

        jaxlm train longformer_large 'data.sources.0.path=my_text/*.txt'

    Training state of 7 GB: one device of 24 GB. 17B tokens as Longformer base: about 33 H100-hours.
    """
    return pretrain(lm_config(LONGFORMER | LARGE), T=4096, tokens=1.7e10, batch=64, learning_rate=3e-5)


def bigbird_base() -> RunConfig:
    """BigBird base for 4,096 tokens, 12 x 768: 128,112,824 parameters (Zaheer et al. 2020, arXiv 2007.14062).

        jaxlm train bigbird_base 'data.sources.0.path=my_text/*.txt'

    Training state of 2 GB: one device of 16 GB. The authors' goes on from RoBERTa base, for 500,000 steps of 256 rows,
    524B tokens: about 12 H100-days.
    """
    return pretrain(lm_config(BIG_BIRD | BASE), T=4096, tokens=5.24e11, batch=256, learning_rate=1e-4)


def bigbird_large() -> RunConfig:
    """BigBird large for 4,096 tokens, 24 x 1024: 360,228,024 parameters (Zaheer et al. 2020, arXiv 2007.14062).

        jaxlm train bigbird_large 'data.sources.0.path=my_text/*.txt'

    Training state of 6 GB: one device of 24 GB. 524B tokens as BigBird base: about 35 H100-days.
    """
    return pretrain(lm_config(BIG_BIRD | LARGE), T=4096, tokens=5.24e11, batch=256, learning_rate=1e-4)
