"""GPT-NeoX and Pythia (Black et al. 2022, arXiv:2204.06745): branches side by side, a quarter of each head rotated."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import flat, linear, same
from jaxlm.convert.usual import activation, attention, layers, lm, mlp
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, LayerNormConfig, ParallelConfig

MODEL_TYPES = {"gpt_neox": "GPTNeoXForCausalLM"}
DEFAULTS = {"max_position_embeddings": 2_048}

NAMES = {
    "gpt_neox.embed_in.weight": same("embed.table"),
    "gpt_neox.layers.{}.input_layernorm.weight": same("norm1.scale"),
    "gpt_neox.layers.{}.input_layernorm.bias": same("norm1.bias"),
    "gpt_neox.layers.{}.post_attention_layernorm.weight": same("norm2.scale"),
    "gpt_neox.layers.{}.post_attention_layernorm.bias": same("norm2.bias"),
    "gpt_neox.layers.{}.attention.query_key_value.weight": linear("mixer.q", "mixer.k", "mixer.v", by="heads"),
    "gpt_neox.layers.{}.attention.query_key_value.bias": flat(
        "mixer.q_bias", "mixer.k_bias", "mixer.v_bias", by="heads"
    ),
    "gpt_neox.layers.{}.attention.dense.weight": linear("mixer.o"),
    "gpt_neox.layers.{}.attention.dense.bias": same("mixer.o_bias"),
    "gpt_neox.layers.{}.mlp.dense_h_to_4h.weight": linear("ffn.up"),
    "gpt_neox.layers.{}.mlp.dense_h_to_4h.bias": same("ffn.up_bias"),
    "gpt_neox.layers.{}.mlp.dense_4h_to_h.weight": linear("ffn.down"),
    "gpt_neox.layers.{}.mlp.dense_4h_to_h.bias": same("ffn.down_bias"),
    "gpt_neox.final_layer_norm.weight": same("norm.scale"),
    "gpt_neox.final_layer_norm.bias": same("norm.bias"),
    "embed_out.weight": linear("head"),
}
IGNORED = ("*.attention.bias", "*.attention.masked_bias", "*.rotary_emb.inv_freq")


def config(c: Fields) -> LMConfig:
    bias = c.bool("attention_bias", default=True)
    norm = LayerNormConfig(c.float("layer_norm_eps", default=1e-5))
    base, fraction = c.float("rotary_emb_base", default=10_000.0), c.float("rotary_pct", default=0.25)
    turned = rope.read(c, base=base, fraction=fraction)
    mixer = attention(c, rope=turned, bias=bias, bias_out=bias)
    ffn = mlp(c, activation=activation(c, "hidden_act", "gelu"), gated=False, bias=True)
    dropout = c.float("hidden_dropout", default=0.0)
    if c.bool("use_parallel_residual", default=True):
        block = ParallelConfig(mixer, ffn, norm, shared=False, dropout=dropout)
    else:
        block = BlockConfig(mixer, ffn, norm, dropout=dropout)
    return lm(c, [block] * layers(c), norm=norm, dropout=dropout)
