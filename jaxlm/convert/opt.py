"""OPT (Zhang et al. 2022, arXiv:2205.01068): GPT-3's shape with ReLU; its 350M norms after each branch."""

from jaxlm.convert.fields import Fields
from jaxlm.convert.names import flat, linear, same
from jaxlm.convert.usual import activation, attention, layers, lm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, LayerNormConfig, LearnedConfig, MLPConfig

MODEL_TYPES = {"opt": "OPTForCausalLM"}

NAMES = {
    "model.decoder.embed_tokens.weight": same("embed.table"),
    "model.decoder.embed_positions.weight": same("positions.table"),
    "model.decoder.project_in.weight": linear("embed_in"),
    "model.decoder.project_out.weight": linear("embed_out"),
    "model.decoder.layers.{}.self_attn.q_proj.weight": linear("mixer.q"),
    "model.decoder.layers.{}.self_attn.q_proj.bias": flat("mixer.q_bias"),
    "model.decoder.layers.{}.self_attn.k_proj.weight": linear("mixer.k"),
    "model.decoder.layers.{}.self_attn.k_proj.bias": flat("mixer.k_bias"),
    "model.decoder.layers.{}.self_attn.v_proj.weight": linear("mixer.v"),
    "model.decoder.layers.{}.self_attn.v_proj.bias": flat("mixer.v_bias"),
    "model.decoder.layers.{}.self_attn.out_proj.weight": linear("mixer.o"),
    "model.decoder.layers.{}.self_attn.out_proj.bias": same("mixer.o_bias"),
    **{
        f"model.decoder.layers.{{}}.{theirs}.{part}": (same(f"{ours}.{scale}"), same(f"{ours}_sum.{scale}"))
        for theirs, ours in (("self_attn_layer_norm", "norm1"), ("final_layer_norm", "norm2"))
        for part, scale in (("weight", "scale"), ("bias", "bias"))
    },
    "model.decoder.layers.{}.fc1.weight": linear("ffn.up"),
    "model.decoder.layers.{}.fc1.bias": same("ffn.up_bias"),
    "model.decoder.layers.{}.fc2.weight": linear("ffn.down"),
    "model.decoder.layers.{}.fc2.bias": same("ffn.down_bias"),
    "model.decoder.final_layer_norm.weight": same("norm.scale"),
    "model.decoder.final_layer_norm.bias": same("norm.bias"),
    "lm_head.weight": linear("head"),
}
SPELLINGS = ({"model.decoder.": "decoder."},)


def config(c: Fields) -> LMConfig:
    affine, bias = c.bool("layer_norm_elementwise_affine", default=True), c.bool("enable_bias", default=True)
    norm, before = LayerNormConfig(scale=affine, bias=affine), c.bool("do_layer_norm_before", default=True)
    dropout, width = c.float("dropout", default=0.1), c.size("word_embed_proj_dim", default=None)
    block = BlockConfig(
        attention(c, rope=None, bias=bias, bias_out=bias),
        MLPConfig(c.size("ffn_dim"), activation(c, "activation_function", "relu"), gated=False, bias=bias),
        norm=norm if before else None,
        norm_sum=None if before else norm,
        dropout=dropout,
    )
    return lm(
        c,
        [block] * layers(c),
        positions=LearnedConfig(c.size("max_position_embeddings", default=2048), offset=2),
        norm=norm if before and not c.bool("_remove_final_layer_norm", default=False) else None,
        tied=c.bool("tie_word_embeddings", default=True),
        embed_width=None if width == c.size("hidden_size") else width,
    )
