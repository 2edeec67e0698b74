"""Gemma 2 (Gemma Team 2024, arXiv 2408.00118): window and full attention in turn, softcapped scores and logits.

Norms before and after every mixer and feed-forward, GELU gates, a tied head over 256,000 tokens. The paper's counts
leave the embedding out (2.0B, 8.3B, 26.0B).
"""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(N: int, D: int, F: int, H: int, G: int, K: int, scalar: int) -> LMConfig:
    """Scores are divided by the square root of `scalar`."""
    return lm_config(
        {
            "model_type": "gemma2",
            "vocab_size": 256_000,
            "hidden_size": D,
            "intermediate_size": F,
            "num_hidden_layers": N,
            "num_attention_heads": H,
            "num_key_value_heads": G,
            "head_dim": K,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "sliding_window": 4096,
            "layer_types": ["sliding_attention", "full_attention"] * (N // 2),
            "query_pre_attn_scalar": scalar,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "tie_word_embeddings": True,
        }
    )


def gemma2_2b() -> RunConfig:
    """Gemma 2 2B, 26 x 2304: 2,614,341,888 parameters (Gemma Team 2024, arXiv 2408.00118).

        jaxlm train gemma2_2b 'data.sources.0.path=my_text/*.txt'

    Training state of 42 GB: one device of 80 GB. Trained on 2T tokens: about 920 H100-days. Google distilled it from a
    larger model.
    """
    return pretrain(model(N=26, D=2304, F=9216, H=8, G=4, K=256, scalar=256), T=8192, tokens=2e12, batch=512)


def gemma2_9b() -> RunConfig:
    """Gemma 2 9B, 42 x 3584: 9,241,705,984 parameters (Gemma Team 2024, arXiv 2408.00118).

        jaxlm train gemma2_9b 'data.sources.0.path=my_text/*.txt'

    Training state of 148 GB: from 4 devices of 80 GB. Trained on 8T tokens: about 13,000 H100-days. Google distilled it
    from a larger model.
    """
    return pretrain(model(N=42, D=3584, F=14336, H=16, G=8, K=256, scalar=256), T=8192, tokens=8e12, batch=512)


def gemma2_27b() -> RunConfig:
    """Gemma 2 27B, 46 x 4608: 27,227,128,320 parameters (Gemma Team 2024, arXiv 2408.00118).

        jaxlm train gemma2_27b 'data.sources.0.path=my_text/*.txt'

    Training state of 436 GB: from 8 devices of 80 GB. Trained on 13T tokens: about 62,000 H100-days.
    """
    return pretrain(model(N=46, D=4608, F=36864, H=32, G=16, K=128, scalar=144), T=8192, tokens=1.3e13, batch=512)
