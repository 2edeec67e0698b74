"""What a config.json may say of a model, under the keys of all families: each reads those it knows."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from jaxlm.models import LMConfig, layers
from jaxlm.nn import AttentionConfig, BlockConfig, MLAConfig, MLPConfig, MoEConfig, ParallelConfig, RopeConfig
from jaxlm.ops import rope

ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh"}  # the others have the same names

TINY = 1e-100  # no scale of scores, whose square must be invertible


def spellings(config: LMConfig) -> Iterator[dict[str, Any]]:
    """Two, where a model has experts and dense layers too: "intermediate_size" may be the width of either. None where
    it has layers of a kind that no family has."""
    every = [layer.config for layer in layers(config)]
    blocks = [block for block in every if isinstance(block, BlockConfig | ParallelConfig)]
    ffns = [block.ffn for block in blocks if isinstance(block.ffn, MLPConfig)]
    if len(ffns) < len(every):
        return
    if not any(all(isinstance(block.mixer, kind) for block in blocks) for kind in (AttentionConfig, MLAConfig)):
        return
    experts = [isinstance(ffn, MoEConfig) for ffn in ffns]
    for wide in sorted({*experts}):
        width = ffns[experts.index(wide)].F
        yield _model(config, blocks) | _layers(blocks) | _ffn(blocks, experts) | {"intermediate_size": width}


def _model(config: LMConfig, blocks: list[Any]) -> dict[str, Any]:
    block, norm = blocks[0], config.norm
    eps = getattr(norm or block.norm_sum, "eps", None)
    return {
        "vocab_size": config.V,
        **dict.fromkeys(("hidden_size", "n_embd", "d_model"), config.D),
        **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers"), len(blocks)),
        **dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"), eps),
        **dict.fromkeys(("n_positions", "max_position_embeddings"), getattr(config.positions, "length", None)),
        "tie_word_embeddings": config.tied,
        "word_embed_proj_dim": config.embed_width or config.D,
        "embedding_multiplier": config.embed_scale,
        "logit_scale": None if getattr(block.mixer, "position_bias", None) else config.logit_scale,  # MPT has none
        "logits_scaling": 1 / config.logit_scale if config.logit_scale else None,
        "final_logit_softcapping": config.softcap,
        "residual_multiplier": getattr(block, "scale", 1.0),
        "use_parallel_residual": isinstance(block, ParallelConfig),
        "do_layer_norm_before": getattr(block, "norm_sum", None) is None,
        "_remove_final_layer_norm": norm is None,
        "layer_norm_elementwise_affine": getattr(norm or getattr(block, "norm_sum", None), "scale", True),
        "apply_residual_connection_post_layernorm": getattr(block, "residual_from_norm", False),
    }


def _layers(blocks: list[Any]) -> dict[str, Any]:
    mixers = [block.mixer for block in blocks]
    m = mixers[0]
    heads = dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), m.H) | {"attention_bias": m.bias}
    if isinstance(m, MLAConfig):
        return heads | _latent(m) | _rope([m.rope])
    of = lambda name: next((getattr(x, name) for x in mixers if getattr(x, name) is not None), None)
    window, chunk, normed, temperature = of("window"), of("chunk"), of("qk_norm"), of("attn_temperature")
    kind = lambda x: "sliding" if x.window is not None else "chunked" if x.chunk is not None else "full"
    return (
        heads
        | _rope([x.rope for x in mixers])
        | {
            "num_key_value_heads": m.groups,
            "head_dim": m.K,
            "enable_bias": m.bias,
            "sliding_window": window if window is None or m.causal else 2 * (window - 1),  # as Gemma 3 counts it
            "use_sliding_window": window is not None,
            "attention_chunk_size": chunk,
            "layer_types": [f"{kind(x)}_attention" for x in mixers],
            "no_rope_layers": [int(x.rope is not None) for x in mixers],
            "use_bidirectional_attention": not m.causal,
            "attention_multiplier": m.K**-0.5 if m.scale is None else m.scale,
            "query_pre_attn_scalar": None if m.scale is None or abs(m.scale) < TINY else _whole(round(m.scale**-2, 6)),
            "scale_attn_weights": m.scale is None,
            "scale_attn_by_inverse_layer_idx": m.scale_by_layer,
            "attn_logit_softcapping": m.softcap,
            "use_qk_norm": normed is not None,
            "attn_temperature_tuning": temperature is not None,
            "attn_scale": None if temperature is None else temperature.scale,
            "floor_scale": None if temperature is None else _whole(temperature.step),
            "lambda_std_dev": getattr(m, "deviation", None),
            "attn_config": {
                "clip_qkv": m.clip_qkv,
                "softmax_scale": m.scale,
                "alibi_bias_max": _whole(getattr(m.position_bias, "steepest", None)),
            },
        }
    )


def _whole(x: float | None) -> float | None:
    """transformers wants an integer where the number is one."""
    return int(x) if x is not None and x == int(x) else x


def _latent(m: MLAConfig) -> dict[str, Any]:
    return {
        "num_key_value_heads": m.H,
        "qk_nope_head_dim": m.K,
        "qk_rope_head_dim": m.R,
        "v_head_dim": m.J,
        "kv_lora_rank": m.L,
        "q_lora_rank": m.query_L,
        "rope_interleave": m.rope.interleaved,
    }


def _ffn(blocks: list[Any], experts: list[bool]) -> dict[str, Any]:
    dense = [i for i, sparse in enumerate(experts) if not sparse]
    any_ffn = blocks[dense[0] if dense else 0].ffn
    activation = ACTIVATIONS.get(any_ffn.activation, any_ffn.activation)
    said = dict.fromkeys(("hidden_act", "hidden_activation", "activation_function"), activation)
    said |= {"mlp_bias": any_ffn.bias} | dict.fromkeys(("n_inner", "ffn_dim", "intermediate_size_mlp"), any_ffn.F)
    if not any(experts):
        return said
    sparse = blocks[experts.index(True)].ffn
    shared = 0 if sparse.shared_mlp is None else sparse.shared_mlp.F // sparse.F
    return said | {
        **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), sparse.E),
        "num_experts_per_tok": sparse.top_k,
        "moe_intermediate_size": sparse.F,
        "norm_topk_prob": sparse.norm_topk_prob,
        "n_group": sparse.groups,
        "topk_group": sparse.topk_group,
        "topk_method": "group_limited_greedy" if sparse.groups > 1 else "greedy",
        "routed_scaling_factor": sparse.scale,
        "n_shared_experts": shared,
        "first_k_dense_replace": experts.index(True),
        "mlp_only_layers": dense,
        "moe_layers": [i for i, one in enumerate(experts) if one],
        "swiglu_limit": sparse.limit,
        "swiglu_alpha": sparse.swish,
    }


# Rotary positions ----------------------------------------------------------------------------------------------------


def _rope(ropes: list[RopeConfig | None]) -> dict[str, Any]:
    """One kind for all layers that have any, or one for those of the first layer and one for the others."""
    kinds = list(dict.fromkeys(one for one in ropes if one is not None))
    if not kinds:
        return {}
    if len(kinds) == 1:
        return {
            "rope_parameters": parameters(kinds[0]),
            "max_position_embeddings": _stretched(kinds[0]),
            "original_max_position_embeddings": getattr(kinds[0].scaling, "length", None),
        }
    return {"rope_parameters": {"sliding_attention": parameters(kinds[0]), "full_attention": parameters(kinds[1])}}


def parameters(c: RopeConfig) -> dict[str, Any]:
    return {"rope_theta": c.base, "partial_rotary_factor": c.fraction} | SCALINGS[type(c.scaling)](c.scaling)


def _stretched(c: RopeConfig) -> int | None:
    """Positions of the model, where its scaling tells."""
    length = getattr(c.scaling, "length", None)
    factor = 1 if isinstance(c.scaling, rope.DynamicNTK) else getattr(c.scaling, "factor", 1)
    return None if length is None or not math.isfinite(length * factor) else math.ceil(length * factor)


SCALINGS: Mapping[type, Any] = {
    rope.Unscaled: lambda s: {"rope_type": "default"},
    rope.Reversed: lambda s: {"rope_type": "reversed"},
    rope.Linear: lambda s: {"rope_type": "linear", "factor": s.factor},
    rope.DynamicNTK: lambda s: {"rope_type": "dynamic", "factor": s.factor},
    rope.Llama3: lambda s: {
        "rope_type": "llama3",
        "factor": s.factor,
        "low_freq_factor": s.low,
        "high_freq_factor": s.high,
        "original_max_position_embeddings": s.length,
    },
    rope.LongRope: lambda s: {
        "rope_type": "longrope",
        "factor": s.factor,
        "short_factor": list(s.short),
        "long_factor": list(s.long),
        "original_max_position_embeddings": s.length,
        **({} if s.attention is None else {"attention_factor": s.attention}),
    },
    rope.Yarn: lambda s: {
        "rope_type": "yarn",
        "factor": s.factor,
        "original_max_position_embeddings": s.length,
        "beta_fast": s.beta_fast,
        "beta_slow": s.beta_slow,
        "truncate": s.truncate,
        **{
            key: value
            for key, value in (
                ("attention_factor", s.attention),
                ("mscale", s.mscale),
                ("mscale_all_dim", s.mscale_all_dim),
            )
            if value is not None
        },
    },
}
