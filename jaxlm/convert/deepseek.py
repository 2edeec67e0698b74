"""DeepSeek V2 and V3 (arXiv:2405.04434, arXiv:2412.19437) and Kimi K2 (arXiv:2507.20534): latent attention, many small
experts chosen within groups, beside shared ones."""

from jaxlm.convert import rope, usual
from jaxlm.convert.fields import Fields
from jaxlm.convert.mixtures import BALANCED, EXPERTS, shared
from jaxlm.convert.names import flat, linear, same
from jaxlm.convert.usual import IGNORED as INV_FREQ
from jaxlm.convert.usual import MLP, NORMS, TOP, activation, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, MLAConfig, MLPConfig, MoEConfig, RMSNormConfig
from jaxlm.ops.rope import Yarn, yarn_magnitude

MODEL_TYPES = {
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "kimi_k2": "DeepseekV3ForCausalLM",
}
DEFAULTS = {"q_lora_rank": 1536}
WRAPPERS = ("kimi_k25",)
SPELLINGS = usual.WRAPPED

NAMES = (
    TOP
    | NORMS
    | MLP
    | EXPERTS
    | BALANCED
    | shared()
    | {
        "model.layers.{}.self_attn.q_proj.weight": linear("mixer.q"),
        "model.layers.{}.self_attn.q_a_proj.weight": linear("mixer.q_down"),
        "model.layers.{}.self_attn.q_a_proj.bias": same("mixer.q_down_bias"),
        "model.layers.{}.self_attn.q_a_layernorm.weight": same("mixer.q_norm.scale"),
        "model.layers.{}.self_attn.q_b_proj.weight": linear("mixer.q_up"),
        "model.layers.{}.self_attn.kv_a_proj_with_mqa.weight": linear("mixer.kv_down", "mixer.k_rope"),
        "model.layers.{}.self_attn.kv_a_proj_with_mqa.bias": flat("mixer.kv_down_bias", "mixer.k_rope_bias"),
        "model.layers.{}.self_attn.kv_a_layernorm.weight": same("mixer.kv_norm.scale"),
        "model.layers.{}.self_attn.kv_b_proj.weight": linear("mixer.k_up", "mixer.v_up", by="heads"),
        "model.layers.{}.self_attn.o_proj.weight": linear("mixer.o"),
        "model.layers.{}.self_attn.o_proj.bias": same("mixer.o_bias"),
    }
)
IGNORED = (
    *INV_FREQ,
    *usual.EYES,
    "*mm_projector.*",
    "model.layers.{}.*",
)  # layers beyond the last predict further tokens


def config(c: Fields) -> LMConfig:
    second = c.str("model_type") == "deepseek_v2"
    bias = second and c.bool("mlp_bias", default=False)  # of dense layers and shared experts
    mixer, experts, dense = attention(c, second), _experts(c, second, bias), mlp(c, bias=bias)
    first, every = c.int("first_k_dense_replace", default=0 if second else 3), c.size("moe_layer_freq", default=1)
    ffns = [experts if i >= first and i % every == 0 else dense for i in range(layers(c))]
    return lm(c, [BlockConfig(mixer, ffn, norm(c)) for ffn in ffns])


def attention(c: Fields, second: bool) -> MLAConfig:
    """YaRN stretches the text and sharpens attention: the scale grows by m(factor)^2, as `mscale_all_dim` has it."""
    H = c.size("num_attention_heads")
    K, R = c.size("qk_nope_head_dim", default=128), c.size("qk_rope_head_dim", default=64)
    if c.size("num_key_value_heads", default=H) != H:
        raise c.error("num_key_value_heads", f"must be num_attention_heads, {H}: every head has keys of its own")
    turned = rope.read(c, interleaved=second or c.bool("rope_interleave", default=True))
    scale, stretch = (K + R) ** -0.5, turned.scaling
    if isinstance(stretch, Yarn) and stretch.mscale_all_dim:
        scale *= yarn_magnitude(stretch.factor, stretch.mscale_all_dim) ** 2
    return MLAConfig(
        H=H,
        K=K,
        R=R,
        J=c.size("v_head_dim", default=128),
        L=c.size("kv_lora_rank", default=512),
        query_L=c.size("q_lora_rank", default=None),
        rope=turned,
        scale=scale,
        norm=RMSNormConfig(1e-6),  # whatever rms_norm_eps says
        bias=c.bool("attention_bias", default=False),
        dropout=c.float("attention_dropout", default=0.0),
    )


def _experts(c: Fields, second: bool, bias: bool) -> MoEConfig:
    E, k = c.size("n_routed_experts", "num_local_experts", "num_experts"), c.size("num_experts_per_tok", default=8)
    groups, kept = c.size("n_group", default=1 if second else 8), c.size("topk_group", default=1 if second else 4)
    shared = c.size("n_shared_experts", default=2 if second else 1)
    F, act = c.size("moe_intermediate_size"), activation(c, "hidden_act", "silu")
    if second:
        how = c.str("topk_method", default="greedy")
        if how not in ("greedy", "group_limited_greedy"):
            raise c.error("topk_method", f"{how!r} is not supported: greedy, group_limited_greedy")
        groups, kept = (groups, kept) if how == "group_limited_greedy" else (1, 1)
    return MoEConfig(
        E=E,
        top_k=k,
        F=F,
        activation=act,
        score="softmax" if second else "sigmoid",
        norm_topk_prob=not second and c.bool("norm_topk_prob", default=True),
        scale=c.float("routed_scaling_factor", default=1.0 if second else 2.5),
        groups=groups,
        topk_group=kept,
        group_score="max" if second else "top2",
        score_correction_bias=not second,
        shared=MLPConfig(shared * F, act, bias=True) if bias else shared,
    )
