"""Llama 4 (Meta 2025), its text model: chunked layers with rotary positions, global ones without, experts weighed at
their input beside a shared one."""

from jaxlm.convert import rope, usual
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import linear
from jaxlm.convert.usual import (
    ATTENTION,
    NORMS,
    TOP,
    activation,
    attention,
    flags,
    layer_types,
    layers,
    lm,
    mlp,
    norm,
)
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, MLPConfig, MoEConfig, QKNormConfig, RMSNormConfig, TemperatureConfig

MODEL_TYPES = {"llama4_text": "Llama4ForCausalLM"}
DEFAULTS = {"num_key_value_heads": 8, "attention_chunk_size": 8192, "max_position_embeddings": 131_072}
WRAPPERS = ("llama4",)
SPELLINGS = usual.WRAPPED
IGNORED = usual.IGNORED + usual.EYES

NAMES = (
    TOP
    | ATTENTION
    | NORMS
    | {
        "model.layers.{}.feed_forward.gate_proj.weight": linear("ffn.gate"),
        "model.layers.{}.feed_forward.up_proj.weight": linear("ffn.up"),
        "model.layers.{}.feed_forward.down_proj.weight": linear("ffn.down"),
        "model.layers.{}.feed_forward.router.weight": linear("ffn.router"),
        "model.layers.{}.feed_forward.experts.gate_up_proj": linear(
            "ffn.gate", "ffn.up", transposed=True, experts=True
        ),
        "model.layers.{}.feed_forward.experts.down_proj": linear("ffn.down", transposed=True, experts=True),
        "model.layers.{}.feed_forward.shared_expert.gate_proj.weight": linear("ffn.shared.gate"),
        "model.layers.{}.feed_forward.shared_expert.up_proj.weight": linear("ffn.shared.up"),
        "model.layers.{}.feed_forward.shared_expert.down_proj.weight": linear("ffn.shared.down"),
    }
)


def config(c: Fields) -> LMConfig:
    N, bias = layers(c), c.bool("attention_bias", default=False)
    every = c.size("no_rope_layer_interval", default=4)
    rotary = flags(c, "no_rope_layers", [(i + 1) % every != 0 for i in range(N)])  # 1 means that it has them
    chunked = layer_types(c, rotary, ("chunked_attention",))
    step = c.size("interleave_moe_layer_step", default=1)
    sparse = c.list("moe_layers", default=list(range(step - 1, N, step)))
    eps, act = norm(c, 1e-5).eps, activation(c, "hidden_act", "silu")
    F, chunk = (
        c.size("intermediate_size"),
        c.size("attention_chunk_size", default=None),
    )
    experts = MoEConfig(
        E=c.size("num_local_experts", default=16),
        top_k=c.size("num_experts_per_tok", default=1),
        F=F,
        activation=act,
        score="sigmoid",
        norm_topk_prob=False,
        weigh_input=True,
        shared=MLPConfig(F, act),
    )
    tuned = TemperatureConfig(c.float("attn_scale", default=0.1), c.float("floor_scale", default=8192.0))
    normed = QKNormConfig(RMSNormConfig(eps, scale=False), after_rope=True)

    def block(i: int) -> BlockConfig:
        mixer = attention(
            c,
            K=c.size("head_dim", default=128),
            rope=rope.read(c, base=500_000.0, interleaved=True) if rotary[i] else None,
            chunk=chunk if chunked[i] else None,
            qk_norm=normed if rotary[i] and c.bool("use_qk_norm", default=True) else None,
            attn_temperature=tuned if not rotary[i] and c.bool("attn_temperature_tuning", default=True) else None,
            bias=bias,
            bias_out=bias,
        )
        return BlockConfig(mixer, experts if i in sparse else mlp(c, "intermediate_size_mlp"), norm(c, 1e-5))

    return lm(c, [block(i) for i in range(N)], norm=norm(c, 1e-5))
