"""ERNIE 4.5 (Baidu 2025), dense and mixed: neighbours turn, a softmax and a term that balances choose experts."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.mixtures import EXPERTS, shared
from jaxlm.convert.names import Row
from jaxlm.convert.usual import IGNORED, NAMES, activation, attention, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, MoEConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"ernie4_5": "Ernie4_5ForCausalLM", "ernie4_5_moe": "Ernie4_5_MoeForCausalLM"}
DEFAULTS = {"max_position_embeddings": 131_072}
NAMES = NAMES | EXPERTS | shared() | {"model.layers.{}.mlp.moe_statics.e_score_correction_bias": Row(("ffn.balance",))}
IGNORED = (*IGNORED, "*mtp*")


def config(c: Fields) -> LMConfig:
    N, mixed = layers(c), c.str("model_type") == "ernie4_5_moe"
    bias, before = c.bool("use_bias", default=False), norm(c, 1e-5)
    heads = {} if mixed else {"K": c.size("head_dim", default=128), "G": c.size("num_key_value_heads", default=2)}
    if mixed:
        heads = {"G": c.size("num_key_value_heads", default=4)}
    mixer = attention(c, rope=rope.read(c, base=5e5, interleaved=True), bias=bias, bias_out=bias, **heads)
    dense = mlp(c, bias=bias)
    tied = c.bool("tie_word_embeddings", default=True)
    if not mixed:
        return lm(c, [BlockConfig(mixer, dense, before)] * N, norm=before, tied=tied)
    act, F = activation(c, "hidden_act", "silu"), c.size("moe_intermediate_size", default=1536)
    many = c.int("moe_num_shared_experts", default=2)
    experts = MoEConfig(
        E=c.size("moe_num_experts", "num_experts", default=64),
        top_k=c.size("moe_k", "num_experts_per_tok", default=6),
        F=F,
        activation=act,
        score_correction_bias=True,
        shared=many or None,
    )
    if bias and many:
        raise c.error("use_bias", "is true beside shared experts: no published model is, and it is not supported")
    first, last = c.int("moe_layer_start_index", default=1), c.int("moe_layer_end_index", default=-1)
    last, every = N - 1 if last < 0 else last, c.size("moe_layer_interval", default=1)
    ffns = [experts if first <= i <= last and (i + 1) % every == 0 else dense for i in range(N)]
    return lm(c, [BlockConfig(mixer, ffn, before) for ffn in ffns], norm=before, tied=tied)
