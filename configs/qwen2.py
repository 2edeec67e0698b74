"""Qwen2.5 (Qwen 2024, arXiv 2412.15115): Llama with biases on queries, keys and values.

The rows of the embedding, 151,936 or 152,064, are more than the tokenizer has tokens.
"""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(
    N: int, D: int, F: int, H: int, G: int, T: int, *, V: int = 151_936, tied: bool = True, eps: float = 1e-6
) -> LMConfig:
    return lm_config(
        {
            "model_type": "qwen2",
            "vocab_size": V,
            "hidden_size": D,
            "intermediate_size": F,
            "num_hidden_layers": N,
            "num_attention_heads": H,
            "num_key_value_heads": G,
            "hidden_act": "silu",
            "max_position_embeddings": T,
            "rms_norm_eps": eps,
            "rope_theta": 1_000_000.0,
            "use_sliding_window": False,
            "tie_word_embeddings": tied,
        }
    )


def qwen2_5_0_5b() -> RunConfig:
    """Qwen2.5 0.5B, 24 x 896: 494,032,768 parameters (Qwen 2024, arXiv 2412.15115).

        jaxlm train qwen2_5_0_5b 'data.sources.0.path=my_text/*.txt'

    Training state of 7.9 GB: one device of 16 GB. Trained on 18T tokens: about 1,600 H100-days.
    """
    return pretrain(model(N=24, D=896, F=4864, H=14, G=2, T=32_768), T=4096, tokens=1.8e13, batch=1024)


def qwen2_5_1_5b() -> RunConfig:
    """Qwen2.5 1.5B, 28 x 1536: 1,543,714,304 parameters (Qwen 2024, arXiv 2412.15115).

        jaxlm train qwen2_5_1_5b 'data.sources.0.path=my_text/*.txt'

    Training state of 25 GB: one device of 80 GB. Trained on 18T tokens: about 4,900 H100-days.
    """
    return pretrain(model(N=28, D=1536, F=8960, H=12, G=2, T=131_072), T=4096, tokens=1.8e13, batch=1024)


def qwen2_5_3b() -> RunConfig:
    """Qwen2.5 3B, 36 x 2048: 3,085,938,688 parameters (Qwen 2024, arXiv 2412.15115).

        jaxlm train qwen2_5_3b 'data.sources.0.path=my_text/*.txt'

    Training state of 49 GB: one device of 80 GB. Trained on 18T tokens: about 9,800 H100-days.
    """
    return pretrain(model(N=36, D=2048, F=11008, H=16, G=2, T=32_768), T=4096, tokens=1.8e13, batch=1024)


def qwen2_5_7b() -> RunConfig:
    """Qwen2.5 7B, 28 x 3584: 7,615,616,512 parameters (Qwen 2024, arXiv 2412.15115).

        jaxlm train qwen2_5_7b 'data.sources.0.path=my_text/*.txt'

    Training state of 122 GB: from 4 devices of 80 GB. Trained on 18T tokens: about 24,000 H100-days.
    """
    return pretrain(
        model(N=28, D=3584, F=18944, H=28, G=4, T=131_072, V=152_064, tied=False), T=4096, tokens=1.8e13, batch=1024
    )


def qwen2_5_14b() -> RunConfig:
    """Qwen2.5 14B, 48 x 5120: 14,770,033,664 parameters (Qwen 2024, arXiv 2412.15115).

        jaxlm train qwen2_5_14b 'data.sources.0.path=my_text/*.txt'

    Training state of 236 GB: from 8 devices of 80 GB. Trained on 18T tokens: about 47,000 H100-days.
    """
    return pretrain(
        model(N=48, D=5120, F=13824, H=40, G=8, T=131_072, V=152_064, tied=False, eps=1e-5),
        T=4096,
        tokens=1.8e13,
        batch=1024,
    )


def qwen2_5_32b() -> RunConfig:
    """Qwen2.5 32B, 64 x 5120: 32,763,876,352 parameters (Qwen 2024, arXiv 2412.15115).

        jaxlm train qwen2_5_32b 'data.sources.0.path=my_text/*.txt'

    Training state of 524 GB: from 16 devices of 80 GB. Trained on 18T tokens: about 100,000 H100-days.
    """
    return pretrain(
        model(N=64, D=5120, F=27648, H=40, G=8, T=131_072, V=152_064, tied=False, eps=1e-5),
        T=4096,
        tokens=1.8e13,
        batch=1024,
    )


def qwen2_5_72b() -> RunConfig:
    """Qwen2.5 72B, 80 x 8192: 72,706,203,648 parameters (Qwen 2024, arXiv 2412.15115).

        jaxlm train qwen2_5_72b 'data.sources.0.path=my_text/*.txt'

    Training state of 1,160 GB: from 32 devices of 80 GB. Trained on 18T tokens: about 230,000 H100-days.
    """
    return pretrain(
        model(N=80, D=8192, F=29568, H=64, G=8, T=131_072, V=152_064, tied=False, eps=1e-5),
        T=4096,
        tokens=1.8e13,
        batch=1024,
    )
