"""nanochat (Karpathy 2025): norms without weights, also of the embedding and of turned queries and keys, squared ReLU,
capped logits; pairs turn the other way."""

from jaxlm.convert import rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import linear
from jaxlm.convert.usual import ATTENTION, IGNORED, TOP, activation, attention, layers, lm, mlp, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, QKNormConfig, RopeConfig
from jaxlm.ops.rope import Reversed, Unscaled

__all__ = ["DEFAULTS", "IGNORED", "MODEL_TYPES", "NAMES", "config"]

MODEL_TYPES = {"nanochat": "NanoChatForCausalLM"}
DEFAULTS = {"final_logit_softcapping": 15.0, "max_position_embeddings": 2_048}
NAMES = (
    TOP
    | ATTENTION
    | {"model.layers.{}.mlp.fc1.weight": linear("ffn.up"), "model.layers.{}.mlp.fc2.weight": linear("ffn.down")}
)


def config(c: Fields) -> LMConfig:
    plain, bias, turned = norm(c, scale=False), c.bool("attention_bias", default=False), rope.read(c)
    if turned.scaling != Unscaled():
        raise c.error("rope_parameters", "are scaled, which nanochat's never are")
    mixer = attention(
        c,
        rope=RopeConfig(turned.base, Reversed()),
        qk_norm=QKNormConfig(plain, after_rope=True),
        bias=bias,
        bias_out=bias,
    )
    ffn = mlp(c, activation=activation(c, "hidden_act", "relu2"), gated=False)
    return lm(
        c,
        [BlockConfig(mixer, ffn, plain)] * layers(c),
        norm=plain,
        embed_norm=plain,
        softcap=c.float("final_logit_softcapping", default=None),
    )
