"""MPT (MosaicML 2023): ALiBi, no biases at all, joined projections."""

from jaxlm.convert.fields import Fields
from jaxlm.convert.names import linear, same
from jaxlm.convert.usual import layers
from jaxlm.models import LMConfig
from jaxlm.nn import AlibiConfig, AttentionConfig, BlockConfig, LayerNormConfig, MLPConfig, group_layers

MODEL_TYPES = {"mpt": "MptForCausalLM"}

NAMES = {
    "transformer.wte.weight": same("embed.table"),
    "transformer.blocks.{}.norm_1.weight": same("norm1.scale"),
    "transformer.blocks.{}.attn.Wqkv.weight": linear("mixer.q", "mixer.k", "mixer.v"),
    "transformer.blocks.{}.attn.out_proj.weight": linear("mixer.o"),
    "transformer.blocks.{}.norm_2.weight": same("norm2.scale"),
    "transformer.blocks.{}.ffn.up_proj.weight": linear("ffn.up"),
    "transformer.blocks.{}.ffn.down_proj.weight": linear("ffn.down"),
    "transformer.norm_f.weight": same("norm.scale"),
    "lm_head.weight": linear("head"),
}
# What the published models have, and all that transformers' MPT computes, whatever its config says.
ONLY = {"no_bias": True, "logit_scale": None, "embedding_fraction": 1.0, "expansion_ratio": 4}
ONLY_ATTENTION = {
    "alibi": True,
    "alibi_bias_max": 8,
    "qk_ln": False,
    "prefix_lm": False,
    "attn_uses_sequence_id": False,
    "attn_type": "multihead_attention",
}


def config(c: Fields) -> LMConfig:
    a = c.section("attn_config", default={})
    for section, only in ((c, ONLY), (a, ONLY_ATTENTION)):
        for key, value in only.items():
            if section.get(key, default=value) != value:
                raise section.error(key, f"other than {str(value).lower()} is not supported")
    D, H = c.size("d_model", "hidden_size"), c.size("n_heads", "num_attention_heads")
    dropout = a.float("attn_pdrop", default=0.0)
    if D % H:
        raise c.error("n_heads", f"{H} does not divide d_model {D}")
    norm = LayerNormConfig(c.float("layer_norm_epsilon", default=1e-5), bias=False)
    mixer = AttentionConfig(
        H,
        D // H,
        rope=None,
        position_bias=AlibiConfig(),
        scale=a.float("softmax_scale", default=None),
        clip_qkv=a.float("clip_qkv", default=None) or None,
        dropout=dropout,
    )
    block = BlockConfig(mixer, MLPConfig(4 * D, "gelu", gated=False), norm, dropout=dropout)
    return LMConfig(
        V=c.size("vocab_size"),
        D=D,
        layers=group_layers([block] * layers(c, "n_layers", "num_hidden_layers")),
        norm=norm,
        tied=c.bool("tie_word_embeddings", default=True),
    )
