"""Switch Transformers (Fedus et al. 2021, arXiv 2101.03961): T5 base with experts in every second layer."""

from jaxlm.convert import lm_config
from jaxlm.models import Seq2SeqConfig
from jaxlm.run import RunConfig

from ._pairs import pairs


def model(E: int) -> Seq2SeqConfig:
    return lm_config(
        {
            "model_type": "switch_transformers",
            "vocab_size": 32_128,
            "d_model": 768,
            "d_ff": 3072,
            "d_kv": 64,
            "num_heads": 12,
            "num_layers": 12,
            "num_experts": E,
            "num_sparse_encoder_layers": 6,
            "num_sparse_decoder_layers": 6,
            "expert_capacity": 64,
        }
    )


def switch_base_8() -> RunConfig:
    """Switch base with 8 experts: 619,339,008 parameters (Fedus et al. 2021, arXiv 2101.03961).

        jaxlm train switch_base_8 data.source=pairs.tsv

    Training state of 9.9 GB: one device of 16 GB.
    """
    return pairs(model(E=8))


def switch_base_16() -> RunConfig:
    """Switch base with 16 experts: 1,072,397,568 parameters (Fedus et al. 2021, arXiv 2101.03961).

        jaxlm train switch_base_16 data.source=pairs.tsv

    Training state of 17 GB: one device of 80 GB.
    """
    return pairs(model(E=16))


def switch_base_32() -> RunConfig:
    """Switch base with 32 experts: 1,978,514,688 parameters (Fedus et al. 2021, arXiv 2101.03961).

        jaxlm train switch_base_32 data.source=pairs.tsv

    Training state of 32 GB: one device of 80 GB.
    """
    return pairs(model(E=32))


def switch_base_64() -> RunConfig:
    """Switch base with 64 experts: 3,790,748,928 parameters (Fedus et al. 2021, arXiv 2101.03961).

        jaxlm train switch_base_64 data.source=pairs.tsv

    Training state of 61 GB: one device of 80 GB.
    """
    return pairs(model(E=64))


def switch_base_128() -> RunConfig:
    """Switch base with 128 experts: 7,415,217,408 parameters (Fedus et al. 2021, arXiv 2101.03961).

        jaxlm train switch_base_128 data.source=pairs.tsv

    Training state of 119 GB: from 2 devices of 80 GB.
    """
    return pairs(model(E=128))
