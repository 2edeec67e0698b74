"""BitNet b1.58 (arXiv:2402.17764, arXiv:2504.12285): Llama with norms before the last matrix of both branches, and a
gated squared ReLU. Weights are read as they were before they became ternary."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import flat, same
from jaxlm.convert.usual import IGNORED, NAMES, activation, attention, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"bitnet": "BitNetForCausalLM"}
DEFAULTS = {"num_key_value_heads": 5, "max_position_embeddings": 2_048}
NAMES = NAMES | {
    "model.layers.{}.self_attn.attn_sub_norm.weight": flat("mixer.norm_out.scale"),
    "model.layers.{}.mlp.ffn_sub_norm.weight": same("ffn.norm.scale"),
}


def config(c: Fields) -> LMConfig:
    bias, before = c.bool("attention_bias", default=False), norm(c, 1e-5)
    mixer = attention(c, rope=rope.read(c, base=500_000.0), bias=bias, bias_out=bias, norm_out=before)
    ffn = mlp(c, activation=activation(c, "hidden_act", "relu2"), norm=before)
    return lm(c, [BlockConfig(mixer, ffn, before)] * layers(c), norm=before)
