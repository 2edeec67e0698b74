"""xLSTM 7B (arXiv:2503.13427) as transformers has it: layers of mLSTM and a gated feed-forward."""

from typing import Any

from jaxlm.convert.fields import Fields
from jaxlm.convert.names import flat, linear, same
from jaxlm.convert.usual import layers
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, MLPConfig, MLSTMConfig, RMSNormConfig, group_layers

MODEL_TYPES = {"xlstm": "xLSTMForCausalLM"}

BLOCK = "backbone.blocks.{}"
NAMES = {
    "backbone.embeddings.weight": same("embed.table"),
    f"{BLOCK}.norm_mlstm.weight": same("norm1.scale"),
    f"{BLOCK}.mlstm_layer.q.weight": linear("mixer.q"),
    f"{BLOCK}.mlstm_layer.k.weight": linear("mixer.k"),
    f"{BLOCK}.mlstm_layer.v.weight": linear("mixer.v"),
    f"{BLOCK}.mlstm_layer.ogate_preact.weight": linear("mixer.gate"),
    f"{BLOCK}.mlstm_layer.igate_preact.weight": linear("mixer.i"),
    f"{BLOCK}.mlstm_layer.igate_preact.bias": same("mixer.i_bias"),
    f"{BLOCK}.mlstm_layer.fgate_preact.weight": linear("mixer.f"),
    f"{BLOCK}.mlstm_layer.fgate_preact.bias": same("mixer.f_bias"),
    f"{BLOCK}.mlstm_layer.multihead_norm.weight": flat("mixer.norm"),
    f"{BLOCK}.mlstm_layer.out_proj.weight": linear("mixer.o"),
    f"{BLOCK}.norm_ffn.weight": same("norm2.scale"),
    f"{BLOCK}.ffn.proj_up_gate.weight": linear("ffn.gate"),
    f"{BLOCK}.ffn.proj_up.weight": linear("ffn.up"),
    f"{BLOCK}.ffn.proj_down.weight": linear("ffn.down"),
    "backbone.out_norm.weight": same("norm.scale"),
    "lm_head.weight": linear("head"),
}


def config(c: Fields) -> LMConfig:
    D, H = c.size("hidden_size", "embedding_dim", default=4096), c.size("num_heads", default=8)
    for key in ("use_bias", "tie_word_embeddings"):
        if c.bool(key, default=False):
            raise c.error(key, "is true: no published model is, and it is not supported")
    c.one_of("weight_mode", among={"single": "single"}, default="single")
    if c.positive("eps", default=1e-6) != 1e-6:
        raise c.error("eps", "other than 1e-6 is not supported")
    widths = [int(D * c.positive(key, default=x)) for key, x in (("qk_dim_factor", 0.5), ("v_dim_factor", 1.0))]
    if widths[0] % H or widths[1] % H:
        raise c.error("num_heads", f"{H} does not divide the widths {widths[0]} of keys and {widths[1]} of values")
    eps, step = c.positive("norm_eps", default=1e-6), c.size("ffn_round_up_to_multiple_of", default=64)
    width = int((D * c.positive("ffn_proj_factor", default=2.667) + step - 1) // step * step)
    K, J = widths[0] // H, widths[1] // H
    mixer = MLSTMConfig(H, K, J, gate_cap=c.positive("gate_soft_cap", default=15.0), eps=eps)
    return LMConfig(
        V=c.size("vocab_size", default=50304),
        D=D,
        layers=group_layers([BlockConfig(mixer, MLPConfig(width), RMSNormConfig(eps))] * _layers(c)),
        norm=RMSNormConfig(eps),
        tied=False,
        softcap=c.positive("output_logit_soft_cap", default=30.0),
    )


def _layers(c: Fields) -> int:
    return layers(c, "num_hidden_layers", "num_blocks")


def fields(config: LMConfig) -> dict[str, Any] | None:
    """What config.json says of a model of mLSTM layers."""
    block = config.layers[0].blocks[0]
    mixer, ffn = getattr(block, "mixer", None), getattr(block, "ffn", None)
    if not isinstance(mixer, MLSTMConfig) or not isinstance(ffn, MLPConfig):
        return None
    return {
        "vocab_size": config.V,
        "hidden_size": config.D,
        "embedding_dim": config.D,
        "num_hidden_layers": config.depth,
        "num_blocks": config.depth,
        "num_heads": mixer.H,
        "qk_dim_factor": mixer.H * mixer.K / config.D,
        "v_dim_factor": mixer.H * (mixer.J or mixer.K) / config.D,
        "ffn_proj_factor": ffn.F / config.D,
        "ffn_round_up_to_multiple_of": 1,
        "gate_soft_cap": mixer.gate_cap,
        "output_logit_soft_cap": config.softcap,
        "norm_eps": mixer.eps,
        "tie_word_embeddings": config.tied,
    }
