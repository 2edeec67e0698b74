"""BART (Lewis et al. 2019, arXiv 1910.13461) and mBART (Liu et al. 2020, arXiv 2001.08210): denoisers of whole texts.

The counts have the bias of the logits, V numbers that are kept and not trained.
"""

from jaxlm.convert import lm_config
from jaxlm.models import Seq2SeqConfig
from jaxlm.run import RunConfig

from ._pairs import pairs


def model(N: int, D: int, H: int, V: int = 50_265, kind: str = "bart") -> Seq2SeqConfig:
    return lm_config(
        {
            "model_type": kind,
            "vocab_size": V,
            "d_model": D,
            **{f"{stack}_layers": N for stack in ("encoder", "decoder")},
            **{f"{stack}_ffn_dim": 4 * D for stack in ("encoder", "decoder")},
            **{f"{stack}_attention_heads": H for stack in ("encoder", "decoder")},
            "max_position_embeddings": 1024,
            "scale_embedding": kind == "mbart",
            "pad_token_id": 1,
        }
    )


def bart_base() -> RunConfig:
    """BART base, 6 + 6 layers of 768: 139,470,681 parameters (Lewis et al. 2019, arXiv 1910.13461).

        jaxlm train bart_base data.source=pairs.tsv

    Training state of 2.2 GB: one device of 16 GB.
    """
    return pairs(model(N=6, D=768, H=12))


def bart_large() -> RunConfig:
    """BART large, 12 + 12 layers of 1024: 406,341,721 parameters (Lewis et al. 2019, arXiv 1910.13461).

        jaxlm train bart_large data.source=pairs.tsv

    Training state of 6.5 GB: one device of 16 GB.
    """
    return pairs(model(N=12, D=1024, H=16))


def mbart_large() -> RunConfig:
    """mBART large of 25 languages, 12 + 12 layers of 1024: 611,101,867 parameters (Liu et al. 2020, arXiv 2001.08210).

        jaxlm train mbart_large data.source=pairs.tsv

    Training state of 9.8 GB: one device of 16 GB.
    """
    return pairs(model(N=12, D=1024, H=16, V=250_027, kind="mbart"))
