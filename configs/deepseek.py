"""DeepSeek V2 (arXiv 2405.04434) and V3 (arXiv 2412.19437): latent attention, shared experts and many small ones.

Keys and values pass through 512 numbers a token, which are all that is cached; 64 rotated ones are shared by all heads.
The first layers are dense. V3's module for predicting one more token (another 14B in training) is not here.
"""

from jaxlm.convert import lm_config
from jaxlm.models import LMConfig
from jaxlm.run import RunConfig

from ._pretrain import pretrain


def model(model_type: str, N: int, D: int, F: int, H: int, V: int, q_rank: int | None, **fields) -> LMConfig:
    """`q_rank` is the width the queries pass through, if they do; `fields` are what else differs."""
    return lm_config(
        {
            "model_type": model_type,
            "vocab_size": V,
            "hidden_size": D,
            "intermediate_size": F,
            "num_hidden_layers": N,
            "num_attention_heads": H,
            "num_key_value_heads": H,
            "q_lora_rank": q_rank,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "hidden_act": "silu",
            "max_position_embeddings": 163_840,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "attention_bias": False,
            "tie_word_embeddings": False,
            "moe_layer_freq": 1,
            **fields,
        }
    )


def yarn(factor: float, mscale: float, beta_fast: float = 32.0) -> dict:
    """From 4096 positions to `factor` times as many (YaRN; Peng et al. 2023, arXiv 2309.00071)."""
    return {
        "type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": 4096,
        "beta_fast": beta_fast,
        "beta_slow": 1.0,
        "mscale": mscale,
        "mscale_all_dim": mscale,
    }


V2_LITE = {
    "rope_scaling": yarn(40.0, mscale=0.707),
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "n_group": 1,
    "topk_group": 1,
    "topk_method": "greedy",
    "scoring_func": "softmax",
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
}
V2 = {
    **V2_LITE,
    "moe_intermediate_size": 1536,
    "n_routed_experts": 160,
    "n_group": 8,
    "topk_group": 3,
    "topk_method": "group_limited_greedy",
    "routed_scaling_factor": 16.0,
}
V3 = {
    "rope_scaling": yarn(40.0, mscale=1.0),
    "first_k_dense_replace": 3,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}


def deepseek_v2_lite() -> RunConfig:
    """DeepSeek-V2-Lite, 27 x 2048, 6 of 64 experts: 15,706,484,224 parameters, 2.66B active (arXiv 2405.04434).

        jaxlm train deepseek_v2_lite 'data.sources.0.path=my_text/*.txt'

    Training state of 251 GB: from 8 devices of 80 GB. Trained on 5.7T tokens: about 2,700 H100-days.
    """
    return pretrain(
        model("deepseek_v2", N=27, D=2048, F=10944, H=16, V=102_400, q_rank=None, **V2_LITE),
        T=4096,
        tokens=5.7e12,
        batch=4608,
        learning_rate=4.2e-4,
    )


def deepseek_v2() -> RunConfig:
    """DeepSeek-V2, 60 x 5120, 6 of 160 experts: 235,741,434,880 parameters, 21.4B active (arXiv 2405.04434).

        jaxlm train deepseek_v2 'data.sources.0.path=my_text/*.txt'

    Training state of 3,770 GB: from 128 devices of 80 GB. Trained on 8.1T tokens: about 30,000 H100-days.
    """
    return pretrain(
        model("deepseek_v2", N=60, D=5120, F=12288, H=128, V=102_400, q_rank=1536, **V2),
        T=4096,
        tokens=8.1e12,
        batch=9216,
        learning_rate=2.4e-4,
    )


def deepseek_v3() -> RunConfig:
    """DeepSeek-V3, 61 x 7168, 8 of 256 experts: 671,026,419,200 parameters, 37.6B active (arXiv 2412.19437).

        jaxlm train deepseek_v3 'data.sources.0.path=my_text/*.txt'

    Training state of 10,700 GB: from 256 devices of 80 GB. Trained on 14.8T tokens: about 98,000 H100-days.
    """
    return pretrain(
        model("deepseek_v3", N=61, D=7168, F=18432, H=128, V=129_280, q_rank=1536, **V3),
        T=4096,
        tokens=1.48e13,
        batch=15360,
        learning_rate=2.2e-4,
    )
