"""Llama 1, 2 and 3 (Meta): RMSNorm, rotary positions, gated SiLU feed-forward, no biases, grouped-query attention."""

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
    V: int,
    T: int,
    *,
    theta: float = 10_000.0,
    eps: float = 1e-5,
    tied: bool = False,
    scaling: dict | None = None,
) -> LMConfig:
    return lm_config(
        {
            "model_type": "llama",
            "vocab_size": V,
            "hidden_size": D,
            "intermediate_size": F,
            "num_hidden_layers": N,
            "num_attention_heads": H,
            "num_key_value_heads": G,
            "hidden_act": "silu",
            "max_position_embeddings": T,
            "rms_norm_eps": eps,
            "rope_theta": theta,
            "rope_scaling": scaling,
            "tie_word_embeddings": tied,
        }
    )


def _llama_3(
    N: int, D: int, F: int, H: int, G: int, T: int = 131_072, factor: float | None = 8.0, tied: bool = False
) -> LMConfig:
    scaling = stretched(factor) if factor else None
    return model(N, D, F, H, G, V=128_256, T=T, theta=500_000.0, tied=tied, scaling=scaling)


def stretched(factor: float) -> dict:
    """Llama 3's rope_scaling: slow rotary frequencies, learned on 8192 positions, are divided by `factor`."""
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def llama_7b() -> RunConfig:
    """LLaMA 7B, 32 x 4096: 6,738,415,616 parameters (Touvron et al. 2023, arXiv 2302.13971).

        jaxlm train llama_7b 'data.sources.0.path=my_text/*.txt'

    Training state of 108 GB: from 2 devices of 80 GB. Trained on 1T tokens: about 1,200 H100-days.
    """
    return pretrain(
        model(N=32, D=4096, F=11008, H=32, G=32, V=32_000, T=2048, eps=1e-6),
        T=2048,
        tokens=1e12,
        batch=2048,
        learning_rate=3e-4,
    )


def llama_13b() -> RunConfig:
    """LLaMA 13B, 40 x 5120: 13,015,864,320 parameters (Touvron et al. 2023, arXiv 2302.13971).

        jaxlm train llama_13b 'data.sources.0.path=my_text/*.txt'

    Training state of 208 GB: from 4 devices of 80 GB. Trained on 1T tokens: about 2,300 H100-days.
    """
    return pretrain(
        model(N=40, D=5120, F=13824, H=40, G=40, V=32_000, T=2048, eps=1e-6),
        T=2048,
        tokens=1e12,
        batch=2048,
        learning_rate=3e-4,
    )


def llama_2_7b() -> RunConfig:
    """Llama 2 7B, 32 x 4096: 6,738,415,616 parameters (Touvron et al. 2023, arXiv 2307.09288).

        jaxlm train llama_2_7b 'data.sources.0.path=my_text/*.txt'

    Training state of 108 GB: from 2 devices of 80 GB. Trained on 2T tokens: about 2,400 H100-days.
    """
    return pretrain(
        model(N=32, D=4096, F=11008, H=32, G=32, V=32_000, T=4096), T=4096, tokens=2e12, batch=1024, learning_rate=3e-4
    )


def llama_2_13b() -> RunConfig:
    """Llama 2 13B, 40 x 5120: 13,015,864,320 parameters (Touvron et al. 2023, arXiv 2307.09288).

        jaxlm train llama_2_13b 'data.sources.0.path=my_text/*.txt'

    Training state of 208 GB: from 4 devices of 80 GB. Trained on 2T tokens: about 4,600 H100-days.
    """
    return pretrain(
        model(N=40, D=5120, F=13824, H=40, G=40, V=32_000, T=4096), T=4096, tokens=2e12, batch=1024, learning_rate=3e-4
    )


def llama_2_70b() -> RunConfig:
    """Llama 2 70B, 80 x 8192: 68,976,648,192 parameters (Touvron et al. 2023, arXiv 2307.09288).

        jaxlm train llama_2_70b 'data.sources.0.path=my_text/*.txt'

    Training state of 1,100 GB: from 32 devices of 80 GB. Trained on 2T tokens: about 24,000 H100-days.
    """
    return pretrain(
        model(N=80, D=8192, F=28672, H=64, G=8, V=32_000, T=4096), T=4096, tokens=2e12, batch=1024, learning_rate=1.5e-4
    )


def llama_3_8b() -> RunConfig:
    """Llama 3 8B, 32 x 4096: 8,030,261,248 parameters (Grattafiori et al. 2024, arXiv 2407.21783).

        jaxlm train llama_3_8b 'data.sources.0.path=my_text/*.txt'

    Training state of 128 GB: from 4 devices of 80 GB. Trained on 15T tokens: about 21,000 H100-days.
    """
    return pretrain(
        _llama_3(N=32, D=4096, F=14336, H=32, G=8, T=8192, factor=None),
        T=8192,
        tokens=1.5e13,
        batch=1024,
        learning_rate=3e-4,
    )


def llama_3_1_8b() -> RunConfig:
    """Llama 3.1 8B, 32 x 4096: 8,030,261,248 parameters (Grattafiori et al. 2024, arXiv 2407.21783).

        jaxlm train llama_3_1_8b 'data.sources.0.path=my_text/*.txt'

    Training state of 128 GB: from 4 devices of 80 GB. Trained on 15T tokens: about 21,000 H100-days. It is Llama 3 8B
    trained further on longer texts.
    """
    return pretrain(_llama_3(N=32, D=4096, F=14336, H=32, G=8), T=8192, tokens=1.5e13, batch=1024, learning_rate=3e-4)


def llama_3_1_70b() -> RunConfig:
    """Llama 3.1 70B, 80 x 8192: 70,553,706,496 parameters (Grattafiori et al. 2024, arXiv 2407.21783).

        jaxlm train llama_3_1_70b 'data.sources.0.path=my_text/*.txt'

    Training state of 1,130 GB: from 32 devices of 80 GB. Trained on 15T tokens: about 190,000 H100-days.
    """
    return pretrain(_llama_3(N=80, D=8192, F=28672, H=64, G=8), T=8192, tokens=1.5e13, batch=1024, learning_rate=1.5e-4)


def llama_3_1_405b() -> RunConfig:
    """Llama 3.1 405B, 126 x 16384: 405,853,388,800 parameters (Grattafiori et al. 2024, arXiv 2407.21783).

        jaxlm train llama_3_1_405b 'data.sources.0.path=my_text/*.txt'

    Training state of 6,490 GB: from 128 devices of 80 GB. Trained on 15.6T tokens: about 1,100,000 H100-days.
    """
    return pretrain(
        _llama_3(N=126, D=16384, F=53248, H=128, G=8), T=8192, tokens=1.56e13, batch=2048, learning_rate=8e-5
    )


def llama_3_2_1b() -> RunConfig:
    """Llama 3.2 1B, 16 x 2048: 1,235,814,400 parameters (Meta's model card, 2024).

        jaxlm train llama_3_2_1b 'data.sources.0.path=my_text/*.txt'

    Training state of 20 GB: one device of 80 GB. Trained on 9T tokens: about 2,000 H100-days. Meta pruned it from Llama
    3.1 8B and distilled 8B and 70B into it.
    """
    return pretrain(_llama_3(N=16, D=2048, F=8192, H=32, G=8, factor=32.0, tied=True), T=8192, tokens=9e12, batch=512)


def llama_3_2_3b() -> RunConfig:
    """Llama 3.2 3B, 28 x 3072: 3,212,749,824 parameters (Meta's model card, 2024).

        jaxlm train llama_3_2_3b 'data.sources.0.path=my_text/*.txt'

    Training state of 51 GB: one device of 80 GB. Trained on 9T tokens: about 5,100 H100-days. Meta pruned it from Llama
    3.1 8B and distilled 8B and 70B into it.
    """
    return pretrain(_llama_3(N=28, D=3072, F=8192, H=24, G=8, factor=32.0, tied=True), T=8192, tokens=9e12, batch=512)
