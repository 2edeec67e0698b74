"""Qwen3 (Qwen 2025, arXiv 2505.09388): Llama with normalised queries and keys, dense or with 8 of 128 experts."""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(N: int, D: int, F: int, H: int, G: int, tied: bool = False, expert: int | None = None) -> LMConfig:
    """`expert` is the feed-forward width of each of 128 experts, if it has them."""
    experts = {
        "model_type": "qwen3_moe",
        "moe_intermediate_size": expert,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    return lm_config(
        {
            "model_type": "qwen3",
            "vocab_size": 151_936,
            "hidden_size": D,
            "intermediate_size": F,
            "num_hidden_layers": N,
            "num_attention_heads": H,
            "num_key_value_heads": G,
            "head_dim": 128,
            "hidden_act": "silu",
            "max_position_embeddings": 40_960,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000.0,
            "attention_bias": False,
            "use_sliding_window": False,
            "tie_word_embeddings": tied,
            **(experts if expert else {}),
        }
    )


def qwen3_0_6b() -> RunConfig:
    """Qwen3 0.6B, 28 x 1024: 596,049,920 parameters (Qwen 2025, arXiv 2505.09388).

        jaxlm train qwen3_0_6b 'data.sources.0.path=my_text/*.txt'

    Training state of 9.5 GB: one device of 16 GB. Trained on 36T tokens: about 3,800 H100-days.
    """
    return pretrain(model(N=28, D=1024, F=3072, H=16, G=8, tied=True), T=4096, tokens=3.6e13, batch=1024)


def qwen3_1_7b() -> RunConfig:
    """Qwen3 1.7B, 28 x 2048: 1,720,574,976 parameters (Qwen 2025, arXiv 2505.09388).

        jaxlm train qwen3_1_7b 'data.sources.0.path=my_text/*.txt'

    Training state of 28 GB: one device of 80 GB. Trained on 36T tokens: about 11,000 H100-days.
    """
    return pretrain(model(N=28, D=2048, F=6144, H=16, G=8, tied=True), T=4096, tokens=3.6e13, batch=1024)


def qwen3_4b() -> RunConfig:
    """Qwen3 4B, 36 x 2560: 4,022,468,096 parameters (Qwen 2025, arXiv 2505.09388).

        jaxlm train qwen3_4b 'data.sources.0.path=my_text/*.txt'

    Training state of 64 GB: from 2 devices of 80 GB. Trained on 36T tokens: about 25,000 H100-days.
    """
    return pretrain(model(N=36, D=2560, F=9728, H=32, G=8, tied=True), T=4096, tokens=3.6e13, batch=1024)


def qwen3_8b() -> RunConfig:
    """Qwen3 8B, 36 x 4096: 8,190,735,360 parameters (Qwen 2025, arXiv 2505.09388).

        jaxlm train qwen3_8b 'data.sources.0.path=my_text/*.txt'

    Training state of 131 GB: from 4 devices of 80 GB. Trained on 36T tokens: about 52,000 H100-days.
    """
    return pretrain(model(N=36, D=4096, F=12288, H=32, G=8, tied=False), T=4096, tokens=3.6e13, batch=1024)


def qwen3_14b() -> RunConfig:
    """Qwen3 14B, 40 x 5120: 14,768,307,200 parameters (Qwen 2025, arXiv 2505.09388).

        jaxlm train qwen3_14b 'data.sources.0.path=my_text/*.txt'

    Training state of 236 GB: from 8 devices of 80 GB. Trained on 36T tokens: about 93,000 H100-days.
    """
    return pretrain(model(N=40, D=5120, F=17408, H=40, G=8, tied=False), T=4096, tokens=3.6e13, batch=1024)


def qwen3_32b() -> RunConfig:
    """Qwen3 32B, 64 x 5120: 32,762,123,264 parameters (Qwen 2025, arXiv 2505.09388).

        jaxlm train qwen3_32b 'data.sources.0.path=my_text/*.txt'

    Training state of 524 GB: from 16 devices of 80 GB. Trained on 36T tokens: about 210,000 H100-days.
    """
    return pretrain(model(N=64, D=5120, F=25600, H=64, G=8, tied=False), T=4096, tokens=3.6e13, batch=1024)


def qwen3_30b_a3b() -> RunConfig:
    """Qwen3 30B-A3B, 48 x 2048, 8 of 128 experts: 30,532,122,624 parameters, 3.35B active (arXiv 2505.09388).

        jaxlm train qwen3_30b_a3b 'data.sources.0.path=my_text/*.txt'

    Training state of 489 GB: from 16 devices of 80 GB. Trained on 36T tokens: about 21,000 H100-days.
    """
    return pretrain(model(N=48, D=2048, F=6144, H=32, G=4, expert=768), T=4096, tokens=3.6e13, batch=1024)


def qwen3_235b_a22b() -> RunConfig:
    """Qwen3 235B-A22B, 94 x 4096, 8 of 128 experts: 235,093,634,560 parameters, 22.2B active (arXiv 2505.09388).

        jaxlm train qwen3_235b_a22b 'data.sources.0.path=my_text/*.txt'

    Training state of 3,760 GB: from 128 devices of 80 GB. Trained on 36T tokens: about 140,000 H100-days.
    """
    return pretrain(model(N=94, D=4096, F=12288, H=64, G=4, expert=1536), T=4096, tokens=3.6e13, batch=1024)
