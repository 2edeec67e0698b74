"""Bloom (arXiv:2211.05100): ALiBi, a norm of the embedding, projections joined head by head."""

from jaxlm.convert.fields import Fields
from jaxlm.convert.names import flat, linear, same
from jaxlm.convert.usual import layers
from jaxlm.models import LMConfig
from jaxlm.nn import AlibiConfig, AttentionConfig, BlockConfig, LayerNormConfig, MLPConfig, group_layers

MODEL_TYPES = {"bloom": "BloomForCausalLM"}

NAMES = {
    "transformer.word_embeddings.weight": same("embed.table"),
    "transformer.word_embeddings_layernorm.weight": same("embed_norm.scale"),
    "transformer.word_embeddings_layernorm.bias": same("embed_norm.bias"),
    "transformer.h.{}.input_layernorm.weight": same("norm1.scale"),
    "transformer.h.{}.input_layernorm.bias": same("norm1.bias"),
    "transformer.h.{}.post_attention_layernorm.weight": same("norm2.scale"),
    "transformer.h.{}.post_attention_layernorm.bias": same("norm2.bias"),
    "transformer.h.{}.self_attention.query_key_value.weight": linear("mixer.q", "mixer.k", "mixer.v", by="heads"),
    "transformer.h.{}.self_attention.query_key_value.bias": flat(
        "mixer.q_bias", "mixer.k_bias", "mixer.v_bias", by="heads"
    ),
    "transformer.h.{}.self_attention.dense.weight": linear("mixer.o"),
    "transformer.h.{}.self_attention.dense.bias": same("mixer.o_bias"),
    "transformer.h.{}.mlp.dense_h_to_4h.weight": linear("ffn.up"),
    "transformer.h.{}.mlp.dense_h_to_4h.bias": same("ffn.up_bias"),
    "transformer.h.{}.mlp.dense_4h_to_h.weight": linear("ffn.down"),
    "transformer.h.{}.mlp.dense_4h_to_h.bias": same("ffn.down_bias"),
    "transformer.ln_f.weight": same("norm.scale"),
    "transformer.ln_f.bias": same("norm.bias"),
    "lm_head.weight": linear("head"),
}
SPELLINGS = ({"transformer.": ""},)  # the published checkpoints


def config(c: Fields) -> LMConfig:
    D, H = c.size("n_embed", "hidden_size"), c.size("n_head", "num_attention_heads")
    if D % H:
        raise c.error("n_head", f"{H} does not divide hidden_size {D}")
    norm = LayerNormConfig(c.float("layer_norm_epsilon", default=1e-5))
    block = BlockConfig(
        AttentionConfig(
            H,
            D // H,
            rope=None,
            position_bias=AlibiConfig(),
            bias=True,
            bias_out=True,
            dropout=c.float("attention_dropout", default=0.0),
        ),
        MLPConfig(4 * D, "gelu_tanh", gated=False, bias=True),
        norm,
        residual_from_norm=c.bool("apply_residual_connection_post_layernorm", default=False),
        dropout=c.float("hidden_dropout", default=0.0),
    )
    return LMConfig(
        V=c.size("vocab_size"),
        D=D,
        layers=group_layers([block] * layers(c, "n_layer", "num_hidden_layers")),
        norm=norm,
        tied=c.bool("tie_word_embeddings", default=True),
        embed_norm=norm,
    )
