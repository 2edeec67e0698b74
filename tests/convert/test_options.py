"""Every option of every family's config.json: what it does to the model that is read. The numbers that such models
compute are compared with transformers' elsewhere; here nothing is computed."""

from fnmatch import fnmatch
from typing import Any

import pytest

from jaxlm.convert import families, gemma3, llama4
from jaxlm.convert.names import tensors
from jaxlm.errors import UserError
from jaxlm.nn import MLPConfig, MoEConfig, ParallelConfig
from tests.convert.configs import read, seen

LOCAL, CHUNKED, FULL = "sliding_attention", "chunked_attention", "full_attention"
OFF = {"use_sliding_window": False}
ON = {"use_sliding_window": True, "sliding_window": 3}


# Family, what its config.json says, where that is seen, and what is there: of all layers, or of each in a list.
OPTIONS: list[tuple[str, dict[str, Any], str, Any]] = [
    # heads
    ("llama", {}, "mixer.groups", 8),
    ("llama", {"num_key_value_heads": 2}, "mixer.G", 2),
    ("llama", {"num_key_value_heads": None}, "mixer.G", 8),
    ("llama", {"head_dim": 6}, "mixer.K", 6),
    ("llama", {"head_dim": None}, "mixer.K", 4),
    ("qwen3", {"head_dim": 6}, "mixer.K", 6),
    *(
        (kind, {}, "mixer.G", groups)
        for kind, groups in {
            "mistral": 8,
            "mixtral": 8,
            "qwen3_moe": 4,
            "smollm3": 4,
            "gpt_oss": 8,
            "llama4_text": 8,
            "glm": 2,
            "gemma2": 4,
            "gemma3_text": 4,
        }.items()
    ),
    ("qwen3_moe", {"num_key_value_heads": None}, "mixer.G", 8),
    *((kind, {}, "mixer.K", 256) for kind in ("gemma2", "gemma3_text")),
    *((kind, {}, "mixer.K", 128) for kind in ("llama4_text", "glm")),
    ("gpt_oss", {}, "mixer.K", 64),
    ("qwen3_moe", {}, "mixer.K", 4),
    ("qwen3", {"head_dim": 128}, "mixer.K", 128),
    # biases
    *(
        (kind, {"attention_bias": bias}, f"mixer.{where}", bias)
        for kind in ("llama", "qwen3", "qwen3_moe", "granite", "smollm3", "olmo2", "diffllama", "cohere", "cohere2")
        for bias in (False, True)
        for where in ("bias", "bias_out")
    ),
    *((kind, {"mlp_bias": True}, "ffn.bias", True) for kind in ("llama", "granite", "smollm3")),
    *((kind, {"mlp_bias": True}, "ffn.bias", False) for kind in ("mistral", "olmo2", "diffllama")),
    *(("glm", {"attention_bias": bias}, "mixer.bias", bias) for bias in (False, True)),
    ("glm", {}, "mixer.bias_out", False),
    ("qwen2", {"attention_bias": False}, "mixer.bias", True),
    *((kind, {}, "mixer.bias", True) for kind in ("gpt_neox", "gpt_oss", "glm", "gpt2", "bloom", "opt")),
    ("gpt_neox", {"attention_bias": False}, "mixer.bias_out", False),
    ("opt", {"enable_bias": False}, "mixer.bias", False),
    ("opt", {"enable_bias": False}, "ffn.bias", False),
    # activations
    *(
        ("llama", {"hidden_act": theirs}, "ffn.activation", ours)
        for theirs, ours in {
            "gelu": "gelu",
            "gelu_python": "gelu",
            "gelu_new": "gelu_tanh",
            "gelu_fast": "gelu_tanh",
            "gelu_pytorch_tanh": "gelu_tanh",
            "gelu_python_tanh": "gelu_tanh",
            "swish": "silu",
            "relu2": "relu2",
            "relu6": "relu6",
            "mish": "mish",
            "hardswish": "hardswish",
            "leaky_relu": "leaky_relu",
            "linear": "linear",
        }.items()
    ),
    ("gpt2", {}, "ffn.activation", "gelu_tanh"),
    ("gpt_neox", {}, "ffn.activation", "gelu"),
    ("opt", {}, "ffn.activation", "relu"),
    ("opt", {"activation_function": "gelu"}, "ffn.activation", "gelu"),
    ("gemma2", {"hidden_act": "relu"}, "ffn.activation", "gelu_tanh"),
    ("gemma2", {"hidden_activation": "relu"}, "ffn.activation", "relu"),
    # heads of the model
    *(
        (kind, {}, ".tied", kind in ("cohere", "cohere2", "gemma2", "gemma3_text", "gpt2", "bloom", "mpt", "opt"))
        for kind in (
            "llama",
            "qwen2",
            "glm",
            "cohere",
            "cohere2",
            "gemma2",
            "gemma3_text",
            "gpt2",
            "bloom",
            "mpt",
            "opt",
        )
    ),
    ("smollm3", {}, ".tied", True),
    ("llama", {"tie_word_embeddings": True}, ".tied", True),
    # windows
    ("mistral", {}, "mixer.window", 4096),
    ("mistral", {"sliding_window": None}, "mixer.window", None),
    ("mistral", {"sliding_window": 3}, "mixer.window", 3),
    ("mixtral", {}, "mixer.window", None),
    ("mixtral", {"sliding_window": 3}, "mixer.window", 3),
    ("phi3", {"sliding_window": 3}, "mixer.window", 3),
    *((kind, OFF | {"max_window_layers": 0}, "mixer.window", None) for kind in ("qwen2", "qwen3", "qwen3_moe")),
    *((kind, ON | {"max_window_layers": 3}, "mixer.window", [None] * 3 + [3]) for kind in ("qwen2", "qwen3")),
    *(
        (kind, ON | {"sliding_window": None, "max_window_layers": 0}, "mixer.window", None)
        for kind in ("qwen2", "qwen3")
    ),
    ("qwen2", {"use_sliding_window": True, "max_window_layers": 0}, "mixer.window", 4096),
    ("qwen2", ON | {"layer_types": [LOCAL, FULL, FULL, LOCAL]}, "mixer.window", [3, None, None, 3]),
    ("qwen2", ON, "mixer.window", None),  # max_window_layers is 28
    ("qwen3_moe", ON, "mixer.window", 3),
    ("qwen3_moe", ON | {"sliding_window": None}, "mixer.window", None),
    ("smollm3", ON, "mixer.window", [None] * 3 + [3]),
    ("smollm3", ON | OFF, "mixer.window", None),
    ("smollm3", ON | OFF | {"layer_types": [LOCAL] + [FULL] * 3}, "mixer.window", [3] + [None] * 3),
    ("smollm3", ON | {"sliding_window": None}, "mixer.window", None),
    ("cohere", {"sliding_window": 3}, "mixer.window", None),
    ("cohere2", {"sliding_window": 3}, "mixer.window", [3, 3, 3, None]),
    ("cohere2", {"sliding_window_pattern": 2}, "mixer.window", [4096, None] * 2),
    ("gemma2", {"sliding_window": 3}, "mixer.window", [3, None] * 2),
    ("gemma2", {"sliding_window": 3, "layer_types": [FULL, FULL, LOCAL, FULL]}, "mixer.window", [None, None, 3, None]),
    ("gemma3_text", {"sliding_window": 3, "sliding_window_pattern": 2}, "mixer.window", [3, None] * 2),
    ("gemma3_text", {"sliding_window": 3}, "mixer.window", 3),
    ("gemma3_text", {"sliding_window": 8, "use_bidirectional_attention": True}, "mixer.window", 5),
    ("gemma3_text", {"use_bidirectional_attention": True}, "mixer.causal", False),
    ("gpt_oss", {}, "mixer.window", [128, None] * 2),
    ("llama4_text", {}, "mixer.chunk", [8192] * 3 + [None]),
    ("llama4_text", {"attention_chunk_size": 3}, "mixer.chunk", [3] * 3 + [None]),
    ("llama4_text", {"attention_chunk_size": None}, "mixer.chunk", None),
    ("llama4_text", {"layer_types": [FULL, CHUNKED, CHUNKED, CHUNKED]}, "mixer.chunk", [None] + [8192] * 3),
    # which layers have rotary positions
    *(
        (kind, said, "mixer.rope", [*rotary])
        for kind in ("smollm3", "llama4_text")
        for said, rotary in (
            ({}, "RRR-"),
            ({"no_rope_layer_interval": 2}, "R-R-"),
            ({"no_rope_layers": [0, 1, 1, 0, 1]}, "-RR-"),
            ({"no_rope_layers": None}, "RRR-"),
        )
    ),
    ("cohere2", {}, "mixer.rope", [*"RRR-"]),
    ("cohere", {}, "mixer.rope", [*"RRRR"]),
    # scores, norms and factors
    ("cohere", {"use_qk_norm": True}, "mixer.qk_norm.per_head", True),
    ("cohere", {}, "mixer.qk_norm", None),
    ("cohere2", {"use_qk_norm": True}, "mixer.qk_norm", None),  # which it never had
    ("cohere", {"logit_scale": 0.5}, ".logit_scale", 0.5),
    ("cohere", {"layer_norm_eps": 0.5}, "norm.eps", 0.5),
    ("llama", {"rms_norm_eps": 0.5}, "norm.eps", 0.5),
    ("llama", {"rms_norm_eps": 0.5}, ".norm.eps", 0.5),
    ("granite", {"embedding_multiplier": 12}, ".embed_scale", 12.0),
    ("granite", {"logits_scaling": 8}, ".logit_scale", 0.125),
    ("granite", {"residual_multiplier": 0.5}, "scale", 0.5),
    ("granite", {"attention_multiplier": 0.5}, "mixer.scale", 0.5),
    ("granite", {}, "mixer.scale", 1.0),
    ("gemma2", {}, "mixer.softcap", 50.0),
    ("gemma2", {"attn_logit_softcapping": None}, "mixer.softcap", None),
    ("gemma2", {}, ".softcap", 30.0),
    ("gemma2", {"final_logit_softcapping": None}, ".softcap", None),
    ("gemma2", {"query_pre_attn_scalar": 16}, "mixer.scale", 0.25),
    ("gemma3_text", {}, ".softcap", None),
    ("gemma3_text", {"final_logit_softcapping": 2.0}, ".softcap", 2.0),
    ("gemma3_text", {"attn_logit_softcapping": 3.0}, "mixer.softcap", None),
    ("diffllama", {"lambda_std_dev": 0.5}, "mixer.deviation", 0.5),
    ("llama4_text", {"use_qk_norm": False}, "mixer.qk_norm", None),
    ("llama4_text", {"attn_temperature_tuning": False}, "mixer.attn_temperature", None),
    ("gpt2", {"scale_attn_weights": False}, "mixer.scale", 1.0),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "mixer.scale_by_layer", True),
    ("gpt2", {"reorder_and_upcast_attn": True}, "mixer.scale_by_layer", False),
    ("gpt2", {"n_inner": None}, "ffn.F", 128),
    ("gpt2", {"n_inner": 5}, "ffn.F", 5),
    ("gpt2", {}, ".positions.length", 64),
    ("bloom", {"apply_residual_connection_post_layernorm": True}, "residual_from_norm", True),
    ("bloom", {"n_embed": 16}, ".D", 16),
    ("mpt", {"attn_config": {"softmax_scale": 0.5}}, "mixer.scale", 0.5),
    ("mpt", {"attn_config": {"clip_qkv": 0.5}}, "mixer.clip_qkv", 0.5),
    ("mpt", {"attn_config": {"clip_qkv": 0}}, "mixer.clip_qkv", None),
    ("gpt_neox", {"use_parallel_residual": True}, "__class__", ParallelConfig),
    ("opt", {}, "norm_sum", None),
    ("opt", {"do_layer_norm_before": False}, "norm", None),
    ("opt", {"do_layer_norm_before": False}, ".norm", None),
    ("opt", {"_remove_final_layer_norm": True}, ".norm", None),
    ("opt", {"layer_norm_elementwise_affine": False}, "norm.scale", False),
    ("opt", {"word_embed_proj_dim": 32}, ".embed_width", None),
    ("opt", {"word_embed_proj_dim": 8}, ".embed_width", 8),
    # experts
    ("mixtral", {}, "ffn.top_k", 2),
    *((kind, {"num_experts": 6, "num_experts_per_tok": 2}, "ffn.E", 6) for kind in ("gpt_oss", "qwen3_moe", "mixtral")),
    *((kind, {"num_local_experts": 6, "num_experts_per_tok": 2}, "ffn.E", 6) for kind in ("gpt_oss", "qwen3_moe")),
    ("qwen3_moe", {}, "ffn.norm_topk_prob", False),
    ("qwen3_moe", {"norm_topk_prob": True}, "ffn.norm_topk_prob", True),
    ("qwen3_moe", {"decoder_sparse_step": 2}, "ffn.__class__", [MLPConfig, MoEConfig] * 2),
    ("qwen3_moe", {"mlp_only_layers": [0, 3]}, "ffn.__class__", [MLPConfig, MoEConfig, MoEConfig, MLPConfig]),
    ("gpt_oss", {"swiglu_limit": 2.0, "swiglu_alpha": 1.5}, "ffn.limit", 2.0),
    ("gpt_oss", {"swiglu_limit": 2.0, "swiglu_alpha": 1.5}, "ffn.swish", 1.5),
    ("llama4_text", {}, "ffn.__class__", MoEConfig),
    ("llama4_text", {"num_experts_per_tok": 2}, "ffn.top_k", 2),
    ("llama4_text", {"interleave_moe_layer_step": 2}, "ffn.__class__", [MLPConfig, MoEConfig] * 2),
    ("llama4_text", {"moe_layers": [0]}, "ffn.__class__", [MoEConfig] + [MLPConfig] * 3),
    ("llama4_text", {"moe_layers": []}, "ffn.F", 10),
    ("deepseek_v2", {}, "ffn.groups", 1),
    ("deepseek_v2", {"n_group": 4, "topk_group": 2}, "ffn.groups", 1),  # topk_method is greedy
    ("deepseek_v2", {"n_group": 4, "topk_group": 2, "topk_method": "group_limited_greedy"}, "ffn.topk_group", 2),
    ("deepseek_v2", {"norm_topk_prob": True}, "ffn.norm_topk_prob", False),
    ("deepseek_v2", {"n_shared_experts": 3}, "ffn.shared_mlp.F", 18),
    ("deepseek_v2", {"mlp_bias": True}, "ffn.shared_mlp.bias", True),
    ("deepseek_v2", {"mlp_bias": True}, "ffn.bias", False),
    ("deepseek_v2", {"mlp_bias": True, "first_k_dense_replace": 1}, "ffn.bias", [True] + [False] * 3),
    ("deepseek_v2", {"rope_interleave": False}, "mixer.rope.interleaved", True),
    ("deepseek_v3", {"rope_interleave": False}, "mixer.rope.interleaved", False),
    ("deepseek_v3", {}, "ffn.__class__", [MLPConfig] * 3 + [MoEConfig]),
    ("deepseek_v3", {"first_k_dense_replace": 0}, "ffn.groups", 8),
    ("deepseek_v3", {"first_k_dense_replace": 0}, "ffn.topk_group", 4),
    ("deepseek_v3", {"first_k_dense_replace": 0}, "ffn.scale", 2.5),
    ("deepseek_v3", {"first_k_dense_replace": 0, "norm_topk_prob": False}, "ffn.norm_topk_prob", False),
    ("deepseek_v3", {"first_k_dense_replace": 0, "rms_norm_eps": 0.5}, "mixer.norm.eps", 1e-6),
    *(("deepseek_v3", {"q_lora_rank": L}, "mixer.query_L", L) for L in (None, 4)),
    ("deepseek_v3", {}, "mixer.query_L", 1536),
    ("deepseek_v3", {"attention_bias": True}, "mixer.bias", True),
]


@pytest.mark.parametrize("kind, said, path, expected", OPTIONS)
def test_an_option_is_read(kind: str, said: dict[str, Any], path: str, expected: Any):
    found = seen(read(kind, said), path)
    if path == "mixer.rope":
        found = ["-" if one is None else "R" for one in found]
    assert found == (expected if isinstance(expected, list) else [expected] * len(found))


@pytest.mark.parametrize("family, others", [(gemma3, "vision_tower.probe"), (llama4, "vision_model.patches")])
@pytest.mark.parametrize("begin", ["language_model.model.", "model.language_model."])
def test_the_text_part_of_a_model_that_also_sees(family: Any, others: str, begin: str):
    config = read(next(iter(family.MODEL_TYPES)), {})
    spelling, known = families.spelling_of(family, config, {f"{begin}norm.weight": None})
    assert known
    names = [tensor.name for tensor in families.spelled(tensors(family.NAMES, config), spelling)]
    assert f"{begin}norm.weight" in names and f"{begin}layers.0.self_attn.q_proj.weight" in names
    assert any(fnmatch(others, pattern) for pattern in family.IGNORED)


# What cannot be had --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, said, message",
    [
        ("llama", {"hidden_act": "xielu"}, "hidden_act 'xielu' is not supported"),
        ("llama", {"rope_parameters": {"rope_type": "proportional"}}, "proportional"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "factor"),
        ("qwen2", {"layer_types": [FULL]}, "layer_types has 1 entries"),
        ("gemma2", {"layer_types": [CHUNKED] * 4}, "layer_types has 'chunked_attention'"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        *(
            ("mpt", {key: value}, key)
            for key, value in (("no_bias", False), ("expansion_ratio", 2), ("logit_scale", 0.5))
        ),
        *(
            ("mpt", {"attn_config": {key: value}}, key)
            for key, value in (
                ("alibi", False),
                ("alibi_bias_max", 4),
                ("qk_ln", True),
                ("attn_type", "multiquery_attention"),
            )
        ),
        ("gpt_neox", {"rotary_pct": 0.4}, "0.4 of the head width 8 is 3"),
    ],
)
def test_what_is_not_supported_is_said_in_one_line(kind: str, said: dict[str, Any], message: str):
    with pytest.raises(UserError) as caught:
        read(kind, said)
    assert (
        str(caught.value).startswith("config.json: ") and message in str(caught.value) and "\n" not in str(caught.value)
    )
