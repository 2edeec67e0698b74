"""T5 (Raffel et al. 2019, arXiv 1910.10683): every task as text to text.

1.1 gates its feed-forwards and has a head of its own. mT5 (Xue et al. 2020, arXiv 2010.11934) is 1.1 for 101 languages,
UL2 (Tay et al. 2022, arXiv 2205.05131) a larger one with gated SiLU.

The vocabulary is padded from 32,100 pieces to 32,128, that of mT5 from 250,100 to 250,112.
"""

from jaxlm.convert import lm_config
from jaxlm.models import Seq2SeqConfig
from jaxlm.run import RunConfig

from ._pairs import pairs


def model(
    N: int, D: int, F: int, H: int, K: int = 64, gated: bool = False, V: int = 32_128, activation: str = "gelu"
) -> Seq2SeqConfig:
    return lm_config(
        {
            "model_type": "t5",
            "vocab_size": V,
            "d_model": D,
            "d_ff": F,
            "d_kv": K,
            "num_heads": H,
            "num_layers": N,
            "feed_forward_proj": f"gated-{activation}" if gated else "relu",
            "tie_word_embeddings": not gated,
        }
    )


def t5_small() -> RunConfig:
    """T5 small: 60,506,624 parameters (Raffel et al. 2019, arXiv 1910.10683).

        jaxlm train t5_small data.source=pairs.tsv

    Training state of 1.0 GB: one device of 16 GB.
    """
    return pairs(model(N=6, D=512, F=2048, H=8))


def t5_base() -> RunConfig:
    """T5 base: 222,903,552 parameters (Raffel et al. 2019, arXiv 1910.10683).

        jaxlm train t5_base data.source=pairs.tsv

    Training state of 3.6 GB: one device of 16 GB.
    """
    return pairs(model(N=12, D=768, F=3072, H=12))


def t5_large() -> RunConfig:
    """T5 large: 737,668,096 parameters (Raffel et al. 2019, arXiv 1910.10683).

        jaxlm train t5_large data.source=pairs.tsv

    Training state of 12 GB: one device of 16 GB.
    """
    return pairs(model(N=24, D=1024, F=4096, H=16))


def t5_3b() -> RunConfig:
    """T5 3B: 2,851,598,336 parameters (Raffel et al. 2019, arXiv 1910.10683).

        jaxlm train t5_3b data.source=pairs.tsv

    Training state of 46 GB: one device of 80 GB.
    """
    return pairs(model(N=24, D=1024, F=16_384, H=32, K=128))


def t5_11b() -> RunConfig:
    """T5 11B: 11,307,321,344 parameters (Raffel et al. 2019, arXiv 1910.10683).

        jaxlm train t5_11b data.source=pairs.tsv

    Training state of 181 GB: from 4 devices of 80 GB.
    """
    return pairs(model(N=24, D=1024, F=65_536, H=128, K=128))


def t5_1_1_small() -> RunConfig:
    """T5 1.1 small: 76,961,152 parameters (Raffel et al. 2019, arXiv 1910.10683).

        jaxlm train t5_1_1_small data.source=pairs.tsv

    Training state of 1.2 GB: one device of 16 GB.
    """
    return pairs(model(N=8, D=512, F=1024, H=6, gated=True))


def t5_1_1_base() -> RunConfig:
    """T5 1.1 base: 247,577,856 parameters (Raffel et al. 2019, arXiv 1910.10683).

        jaxlm train t5_1_1_base data.source=pairs.tsv

    Training state of 4.0 GB: one device of 16 GB.
    """
    return pairs(model(N=12, D=768, F=2048, H=12, gated=True))


def t5_1_1_large() -> RunConfig:
    """T5 1.1 large: 783,150,080 parameters (Raffel et al. 2019, arXiv 1910.10683).

        jaxlm train t5_1_1_large data.source=pairs.tsv

    Training state of 13 GB: one device of 16 GB.
    """
    return pairs(model(N=24, D=1024, F=2816, H=16, gated=True))


def t5_1_1_xl() -> RunConfig:
    """T5 1.1 XL: 2,849,757,184 parameters (Raffel et al. 2019, arXiv 1910.10683).

        jaxlm train t5_1_1_xl data.source=pairs.tsv

    Training state of 46 GB: one device of 80 GB.
    """
    return pairs(model(N=24, D=2048, F=5120, H=32, gated=True))


def t5_1_1_xxl() -> RunConfig:
    """T5 1.1 XXL: 11,135,332,352 parameters (Raffel et al. 2019, arXiv 1910.10683).

        jaxlm train t5_1_1_xxl data.source=pairs.tsv

    Training state of 178 GB: from 4 devices of 80 GB.
    """
    return pairs(model(N=24, D=4096, F=10_240, H=64, gated=True))


def mt5_small() -> RunConfig:
    """mT5 small: 300,176,768 parameters (Xue et al. 2020, arXiv 2010.11934).

        jaxlm train mt5_small data.source=pairs.tsv

    Training state of 4.8 GB: one device of 16 GB.
    """
    return pairs(model(N=8, D=512, F=1024, H=6, gated=True, V=250_112))


def mt5_base() -> RunConfig:
    """mT5 base: 582,401,280 parameters (Xue et al. 2020, arXiv 2010.11934).

        jaxlm train mt5_base data.source=pairs.tsv

    Training state of 9.3 GB: one device of 16 GB.
    """
    return pairs(model(N=12, D=768, F=2048, H=12, gated=True, V=250_112))


def mt5_large() -> RunConfig:
    """mT5 large: 1,229,581,312 parameters (Xue et al. 2020, arXiv 2010.11934).

        jaxlm train mt5_large data.source=pairs.tsv

    Training state of 20 GB: one device of 80 GB.
    """
    return pairs(model(N=24, D=1024, F=2816, H=16, gated=True, V=250_112))


def mt5_xl() -> RunConfig:
    """mT5 XL: 3,742,619,648 parameters (Xue et al. 2020, arXiv 2010.11934).

        jaxlm train mt5_xl data.source=pairs.tsv

    Training state of 60 GB: one device of 80 GB.
    """
    return pairs(model(N=24, D=2048, F=5120, H=32, gated=True, V=250_112))


def mt5_xxl() -> RunConfig:
    """mT5 XXL: 12,921,057,280 parameters (Xue et al. 2020, arXiv 2010.11934).

        jaxlm train mt5_xxl data.source=pairs.tsv

    Training state of 207 GB: from 4 devices of 80 GB.
    """
    return pairs(model(N=24, D=4096, F=10_240, H=64, gated=True, V=250_112))


def ul2_20b() -> RunConfig:
    """UL2 20B: 19,591,209,984 parameters (Tay et al. 2022, arXiv 2205.05131).

        jaxlm train ul2_20b data.source=pairs.tsv

    Training state of 313 GB: from 8 devices of 80 GB.
    """
    return pairs(model(N=32, D=4096, F=16_384, H=16, K=256, gated=True, activation="silu"))
