"""StarCoder 2 (arXiv:2402.19173): grouped queries, layer norms and biases everywhere, a feed-forward without a gate."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import linear, same
from jaxlm.convert.usual import (
    ATTENTION,
    IGNORED,
    NORMS,
    TOP,
    activation,
    attention,
    layer_norm,
    layers,
    lm,
    mlp,
    with_bias,
)
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"starcoder2": "Starcoder2ForCausalLM"}
DEFAULTS = {"num_key_value_heads": 2, "max_position_embeddings": 4_096}
NAMES = (
    with_bias(TOP | NORMS, "norm", "norm1", "norm2")
    | ATTENTION
    | {
        "model.layers.{}.mlp.c_fc.weight": linear("ffn.up"),
        "model.layers.{}.mlp.c_fc.bias": same("ffn.up_bias"),
        "model.layers.{}.mlp.c_proj.weight": linear("ffn.down"),
        "model.layers.{}.mlp.c_proj.bias": same("ffn.down_bias"),
    }
)


def config(c: Fields) -> LMConfig:
    bias, norm = c.bool("use_bias", default=True), layer_norm(c, "norm_epsilon")
    window = c.size("sliding_window", default=None)
    mixer = attention(c, rope=rope.read(c), window=window, bias=bias, bias_out=bias)
    ffn = mlp(c, activation=activation(c, "hidden_act", "gelu_pytorch_tanh"), gated=False, bias=bias)
    block = BlockConfig(mixer, ffn, norm, dropout=c.float("residual_dropout", default=0.0))
    return lm(
        c,
        [block] * layers(c),
        norm=norm,
        tied=c.bool("tie_word_embeddings", default=True),
        dropout=c.float("embedding_dropout", default=0.0),
    )
