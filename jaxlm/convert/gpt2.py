"""GPT-2 (Radford et al. 2019): learned positions, biases everywhere, weights stored (inputs, outputs)."""

from jaxlm.convert.fields import Fields
from jaxlm.convert.names import flat, linear, same
from jaxlm.convert.usual import activation, layers
from jaxlm.models import LMConfig
from jaxlm.nn import AttentionConfig, BlockConfig, LayerNormConfig, LearnedConfig, MLPConfig, group_layers

MODEL_TYPES = {"gpt2": "GPT2LMHeadModel"}

NAMES = {
    "transformer.wte.weight": same("embed.table"),
    "transformer.wpe.weight": same("positions.table"),
    "transformer.h.{}.ln_1.weight": same("norm1.scale"),
    "transformer.h.{}.ln_1.bias": same("norm1.bias"),
    "transformer.h.{}.attn.c_attn.weight": linear("mixer.q", "mixer.k", "mixer.v", transposed=True),
    "transformer.h.{}.attn.c_attn.bias": flat("mixer.q_bias", "mixer.k_bias", "mixer.v_bias"),
    "transformer.h.{}.attn.c_proj.weight": linear("mixer.o", transposed=True),
    "transformer.h.{}.attn.c_proj.bias": same("mixer.o_bias"),
    "transformer.h.{}.ln_2.weight": same("norm2.scale"),
    "transformer.h.{}.ln_2.bias": same("norm2.bias"),
    "transformer.h.{}.mlp.c_fc.weight": linear("ffn.up", transposed=True),
    "transformer.h.{}.mlp.c_fc.bias": same("ffn.up_bias"),
    "transformer.h.{}.mlp.c_proj.weight": linear("ffn.down", transposed=True),
    "transformer.h.{}.mlp.c_proj.bias": same("ffn.down_bias"),
    "transformer.ln_f.weight": same("norm.scale"),
    "transformer.ln_f.bias": same("norm.bias"),
    "lm_head.weight": linear("head"),
}
SPELLINGS = ({"transformer.": ""},)  # the published checkpoints
IGNORED = ("*.attn.bias", "*.attn.masked_bias")  # the causal mask


def config(c: Fields) -> LMConfig:
    D, H = c.size("n_embd", "hidden_size"), c.size("n_head", "num_attention_heads")
    if D % H:
        raise c.error("n_head", f"{H} does not divide n_embd {D}")
    if c.bool("add_cross_attention", default=False):
        raise c.error("add_cross_attention", "is true: a decoder that reads an encoder is no language model")
    norm = LayerNormConfig(c.float("layer_norm_epsilon", default=1e-5))
    mixer = AttentionConfig(
        H,
        D // H,
        rope=None,
        scale=None if c.bool("scale_attn_weights", default=True) else 1.0,
        scale_by_layer=c.bool("scale_attn_by_inverse_layer_idx", default=False),
        bias=True,
        bias_out=True,
        dropout=c.float("attn_pdrop", default=0.1),
    )
    act = activation(c, "activation_function", "gelu_new")
    ffn = MLPConfig(c.size("n_inner", default=4 * D), act, gated=False, bias=True)
    block = BlockConfig(mixer, ffn, norm, dropout=c.float("resid_pdrop", default=0.1))
    return LMConfig(
        V=c.size("vocab_size"),
        D=D,
        layers=group_layers([block] * layers(c, "n_layer", "num_hidden_layers")),
        positions=LearnedConfig(c.size("n_positions", "max_position_embeddings", "n_ctx", default=1024)),
        norm=norm,
        tied=c.bool("tie_word_embeddings", default=True),
        dropout=c.float("embd_pdrop", default=0.1),
    )
