"""MPT (MosaicML 2023): ALiBi instead of positions, no biases at all, a tied head.

The vocabulary is GPT-NeoX's, padded to 50,432.
"""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(N: int, D: int, H: int, T: int) -> LMConfig:
    return lm_config(
        {
            "model_type": "mpt",
            "vocab_size": 50_432,
            "d_model": D,
            "n_layers": N,
            "n_heads": H,
            "expansion_ratio": 4,
            "max_seq_len": T,
            "layer_norm_epsilon": 1e-5,
            "no_bias": True,
            "attn_config": {"alibi": True, "alibi_bias_max": 8, "qk_ln": False, "clip_qkv": None},
            "tie_word_embeddings": True,
        }
    )


def mpt_7b() -> RunConfig:
    """MPT-7B, 32 x 4096: 6,649,286,656 parameters (MosaicML's blog, 2023).

        jaxlm train mpt_7b 'data.sources.0.path=my_text/*.txt'

    Training state of 106 GB: from 2 devices of 80 GB. Trained on 1T tokens: about 1,200 H100-days.
    """
    return pretrain(model(N=32, D=4096, H=32, T=2048), T=2048, tokens=1e12, batch=1792)


def mpt_30b() -> RunConfig:
    """MPT-30B, 48 x 7168: 29,957,200,896 parameters (MosaicML's blog, 2023).

        jaxlm train mpt_30b 'data.sources.0.path=my_text/*.txt'

    Training state of 479 GB: from 16 devices of 80 GB. Trained on 1T tokens: about 5,300 H100-days. All but the last
    50B were texts of 2048.
    """
    return pretrain(model(N=48, D=7168, H=64, T=8192), T=2048, tokens=1e12, batch=1792)
