"""StableLM (arXiv:2402.17834): Llama with layer norms, a quarter of each head rotated, branches side by side if so."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.usual import IGNORED, NAMES, attention, layer_norm, layers, lm, mlp, with_bias
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, ParallelConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"stablelm": "StableLmForCausalLM"}
DEFAULTS = {"num_key_value_heads": 32, "max_position_embeddings": 4_096}
NAMES = with_bias(NAMES, "norm", "norm1", "norm2")


def config(c: Fields) -> LMConfig:
    if c.bool("qk_layernorm", default=False):
        raise c.error("qk_layernorm", "is true: files with a norm for each head are not read")
    norm, dropout = layer_norm(c), c.float("hidden_dropout", default=0.0)
    mixer = attention(c, rope=rope.read(c, fraction=0.25), bias=c.bool("use_qkv_bias", default=False))
    if c.bool("use_parallel_residual", default=False):
        block = ParallelConfig(mixer, mlp(c), norm, dropout=dropout)
    else:
        block = BlockConfig(mixer, mlp(c), norm, dropout=dropout)
    return lm(c, [block] * layers(c), norm=norm)
