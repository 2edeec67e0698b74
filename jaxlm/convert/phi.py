"""Phi-1 to Phi-2 (arXiv:2306.11644): branches side by side behind one norm, biases everywhere, also of the logits."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import linear, same
from jaxlm.convert.usual import ATTENTION, IGNORED, activation, attention, layer_norm, layers, lm, mlp, with_bias
from jaxlm.models import LMConfig
from jaxlm.nn import ParallelConfig, QKNormConfig

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"phi": "PhiForCausalLM"}
DEFAULTS = {"max_position_embeddings": 2_048}
NORMED = {
    "model.layers.{}.self_attn.q_layernorm.weight": same("mixer.q_norm.scale"),
    "model.layers.{}.self_attn.k_layernorm.weight": same("mixer.k_norm.scale"),
    "model.layers.{}.input_layernorm.weight": same("norm1.scale"),
    "model.final_layernorm.weight": same("norm.scale"),
}
NAMES = (
    {name: rule for name, rule in ATTENTION.items() if "_norm." not in name and ".o_proj." not in name}
    | with_bias(NORMED, "norm", "norm1", "mixer.q_norm", "mixer.k_norm")
    | {
        "model.embed_tokens.weight": same("embed.table"),
        "model.layers.{}.self_attn.dense.weight": linear("mixer.o"),
        "model.layers.{}.self_attn.dense.bias": same("mixer.o_bias"),
        "model.layers.{}.mlp.fc1.weight": linear("ffn.up"),
        "model.layers.{}.mlp.fc1.bias": same("ffn.up_bias"),
        "model.layers.{}.mlp.fc2.weight": linear("ffn.down"),
        "model.layers.{}.mlp.fc2.bias": same("ffn.down_bias"),
        "lm_head.weight": linear("head"),
        "lm_head.bias": same("head_bias"),
    }
)


def config(c: Fields) -> LMConfig:
    norm = layer_norm(c)
    normed = QKNormConfig(norm) if c.bool("qk_layernorm", default=False) else None
    mixer = attention(c, rope=rope.read(c, fraction=0.5), qk_norm=normed, bias=True, bias_out=True)
    ffn = mlp(c, activation=activation(c, "hidden_act", "gelu_new"), gated=False, bias=True)
    block = ParallelConfig(mixer, ffn, norm, dropout=c.float("resid_pdrop", default=0.0))
    return lm(c, [block] * layers(c), norm=norm, dropout=c.float("embd_pdrop", default=0.0), head_bias=True)
