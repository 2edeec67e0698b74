"""gpt-oss (OpenAI 2025, arXiv 2508.10925): window and full attention in turn, attention sinks, four experts a token."""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(N: int, E: int) -> LMConfig:
    return lm_config(
        {
            "model_type": "gpt_oss",
            "vocab_size": 201_088,
            "hidden_size": 2880,
            "intermediate_size": 2880,
            "num_hidden_layers": N,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "hidden_act": "silu",
            "swiglu_limit": 7.0,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 150_000.0,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
            },
            "sliding_window": 128,
            "layer_types": ["sliding_attention", "full_attention"] * (N // 2),
            "attention_bias": True,
            "num_local_experts": E,
            "num_experts_per_tok": 4,
            "tie_word_embeddings": False,
        }
    )


def gpt_oss_20b() -> RunConfig:
    """gpt-oss-20b, 24 x 2880, 4 of 32 experts: 20,914,757,184 parameters, 4.19B active (arXiv 2508.10925).

        jaxlm train gpt_oss_20b 'data.sources.0.path=my_text/*.txt'

    Training state of 335 GB: from 8 devices of 80 GB. A run of 4T tokens: about 2,900 H100-days. How many it saw is not
    published.
    """
    return pretrain(model(N=24, E=32), T=4096, tokens=4e12, batch=1024)


def gpt_oss_120b() -> RunConfig:
    """gpt-oss-120b, 36 x 2880, 4 of 128 experts: 116,829,156,672 parameters, 5.71B active (arXiv 2508.10925).

        jaxlm train gpt_oss_120b 'data.sources.0.path=my_text/*.txt'

    Training state of 1,870 GB: from 64 devices of 80 GB. A run of 4T tokens: about 4,000 H100-days. How many it saw is
    not published.
    """
    return pretrain(model(N=36, E=128), T=4096, tokens=4e12, batch=1024)
