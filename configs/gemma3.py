"""The text models of Gemma 3 (Gemma Team 2025, arXiv 2503.19786): five layers with a window, then one without.

Queries and keys are normalised; layers with a window rotate by base 10,000, the others by 1,000,000. From 4B on there
is a vision encoder of 0.4B, which is not here, and 64 more rows of vocabulary for it, which are.
"""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(
    N: int,
    D: int,
    F: int,
    H: int,
    G: int,
    K: int = 256,
    *,
    V: int = 262_208,
    T: int = 131_072,
    window: int = 1024,
    scalar: int = 256,
    factor: float | None = 8.0,
) -> LMConfig:
    """Scores are divided by the root of `scalar`; layers without a window count positions in steps of 1 / `factor`."""
    pattern = ["sliding_attention"] * 5 + ["full_attention"]
    return lm_config(
        {
            "model_type": "gemma3_text",
            "vocab_size": V,
            "hidden_size": D,
            "intermediate_size": F,
            "num_hidden_layers": N,
            "num_attention_heads": H,
            "num_key_value_heads": G,
            "head_dim": K,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": T,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "rope_scaling": {"rope_type": "linear", "factor": factor} if factor else None,
            "sliding_window": window,
            "layer_types": (pattern * N)[:N],
            "query_pre_attn_scalar": scalar,
            "tie_word_embeddings": True,
        }
    )


def gemma3_270m() -> RunConfig:
    """Gemma 3 270M, 18 x 640: 268,098,176 parameters (arXiv 2503.19786 and Google's model card).

        jaxlm train gemma3_270m 'data.sources.0.path=my_text/*.txt'

    Training state of 4.3 GB: one device of 16 GB. Trained on 6T tokens: about 280 H100-days. Most of it is vocabulary.
    """
    return pretrain(
        model(N=18, D=640, F=2048, H=4, G=1, V=262_144, T=32_768, window=512, factor=None),
        T=8192,
        tokens=6e12,
        batch=512,
    )


def gemma3_1b() -> RunConfig:
    """Gemma 3 1B, 26 x 1152: 999,885,952 parameters (Gemma Team 2025, arXiv 2503.19786).

        jaxlm train gemma3_1b 'data.sources.0.path=my_text/*.txt'

    Training state of 16 GB: one device of 80 GB. Trained on 2T tokens: about 350 H100-days. Google distilled it from a
    larger model.
    """
    return pretrain(
        model(N=26, D=1152, F=6912, H=4, G=1, V=262_144, T=32_768, window=512, factor=None),
        T=8192,
        tokens=2e12,
        batch=512,
    )


def gemma3_4b() -> RunConfig:
    """Gemma 3 4B, 34 x 2560: 3,880,263,168 parameters (Gemma Team 2025, arXiv 2503.19786).

        jaxlm train gemma3_4b 'data.sources.0.path=my_text/*.txt'

    Training state of 62 GB: from 2 devices of 80 GB. Trained on 4T tokens: about 2,700 H100-days. Google distilled it
    from a larger model.
    """
    return pretrain(model(N=34, D=2560, F=10240, H=8, G=4), T=8192, tokens=4e12, batch=512)


def gemma3_12b() -> RunConfig:
    """Gemma 3 12B, 48 x 3840: 11,766,034,176 parameters (Gemma Team 2025, arXiv 2503.19786).

        jaxlm train gemma3_12b 'data.sources.0.path=my_text/*.txt'

    Training state of 188 GB: from 4 devices of 80 GB. Trained on 12T tokens: about 25,000 H100-days. Google distilled
    it from a larger model.
    """
    return pretrain(model(N=48, D=3840, F=15360, H=16, G=8), T=8192, tokens=1.2e13, batch=512)


def gemma3_27b() -> RunConfig:
    """Gemma 3 27B, 62 x 5376: 27,009,346,304 parameters (Gemma Team 2025, arXiv 2503.19786).

        jaxlm train gemma3_27b 'data.sources.0.path=my_text/*.txt'

    Training state of 432 GB: from 8 devices of 80 GB. Trained on 14T tokens: about 66,000 H100-days. Google distilled
    it from a larger model.
    """
    return pretrain(model(N=62, D=5376, F=21504, H=32, G=16, K=128, scalar=168), T=8192, tokens=1.4e13, batch=512)
