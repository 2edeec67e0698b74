"""Command R, Command A and Aya 23 (Cohere): mixer and feed-forward side by side on one LayerNorm, scaled logits.

No biases, not in the norms either; the head is the embedding of 256,000 tokens. The second generation (Command R7B and
A) has three layers with a window and rotary positions, then one with neither.
"""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(
    N: int, D: int, F: int, H: int, G: int, theta: float, scale: float, T: int = 131_072, qk_norm: bool = False
) -> LMConfig:
    """The first generation; logits are multiplied by `scale`."""
    fields = {"model_type": "cohere", "use_qk_norm": qk_norm, "max_position_embeddings": T}
    return lm_config(fields | _fields(N, D, F, H, G, theta, scale))


def model_2(N: int, D: int, F: int, H: int, G: int) -> LMConfig:
    layers = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"] * (N // 4)
    fields = {
        "model_type": "cohere2",
        "sliding_window": 4096,
        "layer_types": layers,
        "max_position_embeddings": 131_072,
    }
    return lm_config(fields | _fields(N, D, F, H, G, theta=50_000.0, scale=0.25))


def _fields(N: int, D: int, F: int, H: int, G: int, theta: float, scale: float) -> dict:
    return {
        "vocab_size": 256_000,
        "hidden_size": D,
        "intermediate_size": F,
        "num_hidden_layers": N,
        "num_attention_heads": H,
        "num_key_value_heads": G,
        "hidden_act": "silu",
        "layer_norm_eps": 1e-5,
        "rope_theta": theta,
        "logit_scale": scale,
        "attention_bias": False,
        "tie_word_embeddings": True,
    }


def command_r() -> RunConfig:
    """Command R v01, 40 x 8192: 34,980,831,232 parameters (Cohere's model card, 2024).

        jaxlm train command_r 'data.sources.0.path=my_text/*.txt'

    Training state of 560 GB: from 16 devices of 80 GB. A run of 2T tokens: about 12,000 H100-days. How many it saw is
    not published.
    """
    return pretrain(model(N=40, D=8192, F=22528, H=64, G=64, theta=8e6, scale=0.0625), T=8192, tokens=2e12, batch=512)


def command_r_plus() -> RunConfig:
    """Command R+, 64 x 12288: 103,810,674,688 parameters (Cohere's model card, 2024).

        jaxlm train command_r_plus 'data.sources.0.path=my_text/*.txt'

    Training state of 1,660 GB: from 32 devices of 80 GB. A run of 2T tokens: about 36,000 H100-days. How many it saw is
    not published.
    """
    return pretrain(
        model(N=64, D=12288, F=33792, H=96, G=8, theta=75e6, scale=5 / 6, qk_norm=True), T=8192, tokens=2e12, batch=512
    )


def aya_23_8b() -> RunConfig:
    """Aya 23 8B, 32 x 4096: 8,028,033,024 parameters (Aryabumi et al. 2024, arXiv 2405.15032).

        jaxlm train aya_23_8b 'data.sources.0.path=my_text/*.txt'

    Training state of 128 GB: from 4 devices of 80 GB. A run of 2T tokens: about 2,800 H100-days. How many it saw is not
    published.
    """
    return pretrain(
        model(N=32, D=4096, F=14336, H=32, G=8, theta=1e4, scale=0.0625, T=8192), T=8192, tokens=2e12, batch=512
    )


def command_r7b() -> RunConfig:
    """Command R7B, 32 x 4096: 8,028,033,024 parameters (Cohere's model card, 2024).

        jaxlm train command_r7b 'data.sources.0.path=my_text/*.txt'

    Training state of 128 GB: from 4 devices of 80 GB. A run of 2T tokens: about 2,800 H100-days. How many it saw is not
    published.
    """
    return pretrain(model_2(N=32, D=4096, F=14336, H=32, G=8), T=8192, tokens=2e12, batch=512)


def command_a() -> RunConfig:
    """Command A, 64 x 12288: 111,057,580,032 parameters (Cohere 2025, arXiv 2504.00698).

        jaxlm train command_a 'data.sources.0.path=my_text/*.txt'

    Training state of 1,780 GB: from 32 devices of 80 GB. A run of 2T tokens: about 39,000 H100-days. How many it saw is
    not published.
    """
    return pretrain(model_2(N=64, D=12288, F=36864, H=96, G=8), T=8192, tokens=2e12, batch=512)
