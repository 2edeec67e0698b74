"""MiMo-V2-Flash (arXiv:2601.02780): five local layers with sinks to a global one, more key heads in them, values
narrower than keys, and DeepSeek V3's mixture without shared experts."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.mixtures import BALANCED, EXPERTS, choose, sigmoid
from jaxlm.convert.names import same
from jaxlm.convert.usual import IGNORED, NAMES, attention, flags, layer_types, layers, lm, mlp
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, RMSNormConfig, RopeConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"mimo_v2_flash": "MiMoV2FlashForCausalLM"}
DEFAULTS = {"num_key_value_heads": 4, "head_dim": 192, "max_position_embeddings": 262_144}
NAMES = NAMES | EXPERTS | BALANCED | {"model.layers.{}.self_attn.sinks": same("mixer.sinks")}
SPELLINGS = ({".self_attn.sinks": ".self_attn.attention_sink_bias"},)  # as it was published
IGNORED = (*IGNORED, "model.mtp.*")


def config(c: Fields) -> LMConfig:
    N, K, G = layers(c), c.size("head_dim"), c.size("num_key_value_heads")
    H, J = c.size("num_attention_heads"), c.size("v_head_dim", default=128)
    bias = c.bool("attention_bias", default=False)
    before = RMSNormConfig(c.float("layernorm_epsilon", "rms_norm_eps", default=1e-5))
    for key, usual in (("swa_num_attention_heads", H), ("swa_head_dim", K), ("swa_v_head_dim", J)):
        if c.size(key, default=usual) != usual:
            raise c.error(key, f"is not that of global layers, {usual}: not supported")
    size = c.size("sliding_window_size", default=None)
    window = c.size("sliding_window", default=129) if size is None else size + 1

    def mixer(local: bool) -> AttentionConfig:
        turned = rope.by_kind(c, local, 5e6, 1e4, "swa_rope_theta")
        fraction = _fraction(c, local)
        return attention(
            c,
            G=c.size("swa_num_key_value_heads", default=2 * G) if local else G,
            J=J,
            rope=RopeConfig(turned.base, turned.scaling, fraction),
            window=window if local else None,
            sinks=c.bool(f"add_{'swa' if local else 'full'}_attention_sink_bias", default=local),
            bias=bias,
            scale_out=c.float("attention_value_scale", default=1.0),
        )

    local = flags(c, "hybrid_layer_pattern", [bool((i + 1) % 6) and i > 0 for i in range(N)])
    local = layer_types(c, local)
    E, F = c.size("n_routed_experts", default=256), c.size("moe_intermediate_size", default=2048)
    experts = sigmoid(c, E, F, 8, 0, 1.0)
    ffns = [experts if one else mlp(c) for one in flags(c, "moe_layer_freq", [i > 0 for i in range(N)])]
    if c.get("mlp_layer_types") is not None:
        ffns = choose(c, mlp(c), experts, 1)
    return lm(c, [BlockConfig(mixer(one), ffn, before) for one, ffn in zip(local, ffns)], norm=before)


def _fraction(c: Fields, local: bool) -> float:
    kind = "sliding_attention" if local else "full_attention"
    p = c.section("rope_parameters", default={}).section(kind, default={})
    return p.float("partial_rotary_factor", default=c.float("partial_rotary_factor", default=0.334))
