"""SmolLM3 (Hugging Face 2025): Llama without rotary positions in every fourth layer (NoPE, arXiv 2501.18795)."""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(N: int, D: int, F: int, H: int, G: int) -> LMConfig:
    return lm_config(
        {
            "model_type": "smollm3",
            "vocab_size": 128_256,
            "hidden_size": D,
            "intermediate_size": F,
            "num_hidden_layers": N,
            "num_attention_heads": H,
            "num_key_value_heads": G,
            "hidden_act": "silu",
            "max_position_embeddings": 65_536,
            "rms_norm_eps": 1e-6,
            "rope_theta": 5_000_000.0,
            "no_rope_layers": [1, 1, 1, 0] * (N // 4),
            "use_sliding_window": False,
            "tie_word_embeddings": True,
        }
    )


def smollm3_3b() -> RunConfig:
    """SmolLM3 3B, 36 x 2048: 3,075,098,624 parameters (Hugging Face's blog, 2025).

        jaxlm train smollm3_3b 'data.sources.0.path=my_text/*.txt'

    Training state of 49 GB: one device of 80 GB. Trained on 11.2T tokens: about 6,000 H100-days.
    """
    return pretrain(model(N=36, D=2048, F=11008, H=16, G=4), T=4096, tokens=1.12e13, batch=576, learning_rate=2e-4)
