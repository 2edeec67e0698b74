"""Falcon (arXiv:2311.16867): one key head, or a few, for all queries; branches side by side; ALiBi in some."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import flat, linear, same
from jaxlm.convert.usual import activation, layers
from jaxlm.models import LMConfig
from jaxlm.nn import AlibiConfig, AttentionConfig, BlockConfig, LayerNormConfig, MLPConfig, ParallelConfig, group_layers

MODEL_TYPES = {"falcon": "FalconForCausalLM"}
DEFAULTS = {"max_position_embeddings": 2_048}
LAYER = "transformer.h.{}"
NAMES = {
    "transformer.word_embeddings.weight": same("embed.table"),
    f"{LAYER}.self_attention.query_key_value.weight": linear("mixer.q", "mixer.k", "mixer.v", by="heads"),
    f"{LAYER}.self_attention.query_key_value.bias": flat("mixer.q_bias", "mixer.k_bias", "mixer.v_bias", by="heads"),
    f"{LAYER}.self_attention.dense.weight": linear("mixer.o"),
    f"{LAYER}.self_attention.dense.bias": same("mixer.o_bias"),
    f"{LAYER}.mlp.dense_h_to_4h.weight": linear("ffn.up"),
    f"{LAYER}.mlp.dense_h_to_4h.bias": same("ffn.up_bias"),
    f"{LAYER}.mlp.dense_4h_to_h.weight": linear("ffn.down"),
    f"{LAYER}.mlp.dense_4h_to_h.bias": same("ffn.down_bias"),
    "transformer.ln_f.weight": same("norm.scale"),
    "transformer.ln_f.bias": same("norm.bias"),
    "lm_head.weight": linear("head"),
}


def names(config: LMConfig) -> dict:
    """Those of the two norms of branches side by side are not those of one after the other."""
    block = config.layers[0].blocks[0]
    two = isinstance(block, ParallelConfig) and not block.shared
    called = ("ln_attn", "ln_mlp") if two else ("input_layernorm", "post_attention_layernorm")
    norms = {
        f"{LAYER}.{name}.{end}": same(f"norm{i + 1}.{ours}")
        for i, name in enumerate(called)
        for end, ours in (("weight", "scale"), ("bias", "bias"))
    }
    return NAMES | norms


def config(c: Fields) -> LMConfig:
    D, H, N = c.size("hidden_size"), c.size("num_attention_heads", "n_head"), layers(c, "num_hidden_layers", "n_layer")
    if D % H:
        raise c.error("num_attention_heads", f"{H} does not divide hidden_size {D}")
    new, bias = c.bool("new_decoder_architecture", default=False), c.bool("bias", default=False)
    G = c.size("num_kv_heads", "n_head_kv", default=H)
    if not new:
        G = 1 if c.bool("multi_query", default=True) else H
    alibi = c.bool("alibi", default=False)
    norm = LayerNormConfig(c.float("layer_norm_epsilon", default=1e-5))
    mixer = AttentionConfig(
        H,
        D // H,
        G,
        rope=None if alibi else rope.read(c),
        position_bias=AlibiConfig(scale=(D // H) ** -0.5) if alibi else None,
        bias=bias,
        bias_out=bias,
        dropout=c.float("attention_dropout", default=0.0),
    )
    width = c.size("ffn_hidden_size", default=4 * D)
    ffn = MLPConfig(width, activation(c, "activation", "gelu"), gated=False, bias=bias)
    dropout = c.float("hidden_dropout", default=0.0)
    if new or c.bool("parallel_attn", default=True):
        two = new and c.size("num_ln_in_parallel_attn", default=2) == 2
        block = ParallelConfig(mixer, ffn, norm, shared=not two, dropout=dropout)
    else:
        block = BlockConfig(mixer, ffn, norm, dropout=dropout)
    tied = c.bool("tie_word_embeddings", default=True)
    return LMConfig(V=c.size("vocab_size"), D=D, layers=group_layers([block] * N), norm=norm, tied=tied)
