"""RecurrentGemma (arXiv:2404.07839): two layers of Griffin's recurrent block to one of local attention."""

import math
from typing import Any

import ml_dtypes

from jaxlm.convert import rope
from jaxlm.convert.depthwise import depthwise
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import flat, linear, same
from jaxlm.convert.spellings import ACTIVATIONS as SPELT
from jaxlm.convert.usual import activation, attention, layers, lm, norm
from jaxlm.models import LMConfig
from jaxlm.models import layers as every
from jaxlm.nn import AttentionConfig, BlockConfig, MLPConfig, RGLRUConfig

MODEL_TYPES = {"recurrent_gemma": "RecurrentGemmaForCausalLM"}

BLOCK = "model.layers.{}.temporal_block"
NAMES = {
    "model.embed_tokens.weight": same("embed.table"),
    "model.layers.{}.temporal_pre_norm.weight": same("norm1.scale"),
    f"{BLOCK}.q_proj.weight": linear("mixer.q"),
    f"{BLOCK}.q_proj.bias": flat("mixer.q_bias"),
    f"{BLOCK}.k_proj.weight": linear("mixer.k"),
    f"{BLOCK}.k_proj.bias": flat("mixer.k_bias"),
    f"{BLOCK}.v_proj.weight": linear("mixer.v"),
    f"{BLOCK}.v_proj.bias": flat("mixer.v_bias"),
    f"{BLOCK}.linear_y.weight": linear("mixer.gate"),
    f"{BLOCK}.linear_y.bias": flat("mixer.gate_bias"),
    f"{BLOCK}.linear_x.weight": linear("mixer.x"),
    f"{BLOCK}.linear_x.bias": flat("mixer.x_bias"),
    f"{BLOCK}.conv_1d.weight": depthwise("mixer.conv"),
    f"{BLOCK}.conv_1d.bias": flat("mixer.conv_bias"),
    f"{BLOCK}.rg_lru.recurrent_param": flat("mixer.lambda"),
    f"{BLOCK}.rg_lru.input_gate_weight": same("mixer.input"),
    f"{BLOCK}.rg_lru.input_gate_bias": same("mixer.input_bias"),
    f"{BLOCK}.rg_lru.recurrent_gate_weight": same("mixer.recurrent"),
    f"{BLOCK}.rg_lru.recurrent_gate_bias": same("mixer.recurrent_bias"),
    f"{BLOCK}.linear_out.weight": linear("mixer.out"),
    f"{BLOCK}.linear_out.bias": same("mixer.out_bias"),
    f"{BLOCK}.o_proj.weight": linear("mixer.o"),
    f"{BLOCK}.o_proj.bias": same("mixer.o_bias"),
    "model.layers.{}.channel_pre_norm.weight": same("norm2.scale"),
    "model.layers.{}.mlp_block.gate_proj.weight": linear("ffn.gate"),
    "model.layers.{}.mlp_block.gate_proj.bias": same("ffn.gate_bias"),
    "model.layers.{}.mlp_block.up_proj.weight": linear("ffn.up"),
    "model.layers.{}.mlp_block.up_proj.bias": same("ffn.up_bias"),
    "model.layers.{}.mlp_block.down_proj.weight": linear("ffn.down"),
    "model.layers.{}.mlp_block.down_proj.bias": same("ffn.down_bias"),
    "model.final_norm.weight": same("norm.scale"),
    "lm_head.weight": linear("head"),
}
KINDS = ("recurrent", "attention")


def config(c: Fields) -> LMConfig:
    D, H, N = c.size("hidden_size"), c.size("num_attention_heads"), layers(c)
    pattern = c.list("block_types", default=["recurrent", "recurrent", "attention"])
    if not pattern or any(kind not in KINDS for kind in pattern):
        raise c.error("block_types", f"must be a list of {' and '.join(KINDS)}, not {str(pattern)[:60]}")
    act = activation(c, "hidden_activation", "gelu_pytorch_tanh")
    Z = c.size("lru_width", default=D)
    if Z % H:
        raise c.error("num_attention_heads", f"{H} does not divide lru_width {Z}")
    local = attention(
        c,
        K=D // H,
        rope=rope.read(c, fraction=0.5),
        window=c.size("attention_window_size", "sliding_window", default=2048),
        bias=c.bool("attention_bias", default=False),
        bias_out=True,
    )
    mixers = {"recurrent": RGLRUConfig(Z, H, W=c.size("conv1d_width", default=4), activation=act), "attention": local}
    width = c.size("intermediate_size", default=3 * D)
    if width % 2:
        raise c.error("intermediate_size", f"{width} is odd: half of it is the width")
    ffn, around = MLPConfig(width // 2, act, bias=True), norm(c, zero_centered=True)
    return lm(
        c,
        [BlockConfig(mixers[pattern[i % len(pattern)]], ffn, around) for i in range(N)],
        norm=around,
        tied=c.bool("tie_word_embeddings", default=True),
        embed_scale=float(ml_dtypes.bfloat16(math.sqrt(D))),  # as it was trained
        softcap=c.positive("logits_soft_cap", default=30.0),
    )


def fields(config: LMConfig) -> dict[str, Any] | None:
    """What config.json says of a model of recurrent blocks and local attention."""
    blocks = [layer.config for layer in every(config)]
    found = {type(mixer): mixer for block in blocks for mixer in block.mixers}
    unit, local, ffn = found.get(RGLRUConfig), found.get(AttentionConfig), getattr(blocks[0], "ffn", None)
    if unit is None or not isinstance(ffn, MLPConfig):
        return None
    kind = {RGLRUConfig: "recurrent", AttentionConfig: "attention"}
    said = {
        "vocab_size": config.V,
        "hidden_size": config.D,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": unit.H,
        "intermediate_size": 2 * ffn.F,
        "hidden_activation": SPELT.get(unit.activation, unit.activation),
        "lru_width": unit.Z,
        "conv1d_width": unit.W,
        "block_types": [kind.get(type(mixer), "other") for block in blocks for mixer in block.mixers],
        "logits_soft_cap": config.softcap,
        "rms_norm_eps": getattr(config.norm, "eps", None),
        "tie_word_embeddings": config.tied,
    }
    if local is None:
        return said
    rotary = {} if local.rope is None else {"rope_theta": local.rope.base, "partial_rotary_factor": local.rope.fraction}
    return said | {
        "num_key_value_heads": local.groups,
        "attention_window_size": local.window,
        "attention_bias": local.bias,
        "rope_parameters": {"rope_type": "default", **rotary},
    }
