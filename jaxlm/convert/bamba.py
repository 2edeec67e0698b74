"""Bamba (IBM 2024): Mamba-2 layers, among them a few of attention that turn half of each head, each with an MLP."""

from jaxlm.convert import granitemoehybrid, rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import linear, same
from jaxlm.convert.usual import ATTENTION, IGNORED, TOP, attention, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"bamba": "BambaForCausalLM"}
DEFAULTS = {"num_key_value_heads": 8, "max_position_embeddings": 262_144, "rms_norm_eps": 1e-5}
NAMES = (
    granitemoehybrid.MAMBA
    | TOP
    | ATTENTION
    | {f"model.layers.{{}}.feed_forward.{x}_proj.weight": linear(f"ffn.{x}") for x in ("gate", "up", "down")}
    | {
        "model.final_layernorm.weight": same("norm.scale"),
        "model.layers.{}.input_layernorm.weight": same("norm1.scale"),
        "model.layers.{}.pre_ff_layernorm.weight": same("norm2.scale"),
    }
)
NAMES.pop("model.norm.weight")


def config(c: Fields) -> LMConfig:
    N, at = layers(c), c.list("attn_layer_indices", default=[])
    bias = c.bool("attention_bias", default=False)
    whole = attention(c, rope=rope.read(c, fraction=0.5), bias=bias, bias_out=bias)
    mamba = granitemoehybrid.mamba(c)
    if wrong := [i for i in at if type(i) is not int or not 0 <= i < N]:
        raise c.error("attn_layer_indices", f"has {str(wrong[0])[:20]}, but there are {N} layers, counted from 0")
    kinds = c.list("layer_types", "layers_block_type", default=None)
    if kinds is not None:
        at = [i for i, kind in enumerate(granitemoehybrid.kinds(c)) if kind == "attention"]
    return lm(c, [BlockConfig(whole if i in at else mamba, mlp(c), norm(c)) for i in range(N)])
