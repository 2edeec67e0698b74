"""RWKV-4 (arXiv:2305.13048) as transformers has it. Its `rescale_every` halves the residual stream here and there so
that float16 does not overflow; what comes out is the same, so nothing of it is done here."""

import dataclasses
from typing import Any

import numpy as np

from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Rule, Weight, linear, same
from jaxlm.convert.usual import layers
from jaxlm.models import LMConfig
from jaxlm.nn import BranchesConfig, ChannelMixConfig, LayerNormConfig, TimeMixConfig, group_layers, rwkv_layer

MODEL_TYPES = {"rwkv": "RwkvForCausalLM"}


@dataclasses.dataclass(frozen=True)
class Row(Rule):
    """A tensor (1, 1, D) of a weight (D,)."""

    def shape(self, weights: tuple[Weight, ...]) -> tuple[int, ...]:
        return 1, 1, *weights[0].shape

    def read(self, tensor: np.ndarray, weights: tuple[Weight, ...]) -> list[np.ndarray]:
        return [tensor[0, 0]]

    def write(self, ours: list[np.ndarray], weights: tuple[Weight, ...]) -> np.ndarray:
        return ours[0][None, None]


NAMES = {
    "rwkv.embeddings.weight": same("embed.table"),
    "rwkv.blocks.0.pre_ln.weight": same("embed_norm.scale"),
    "rwkv.blocks.0.pre_ln.bias": same("embed_norm.bias"),
    "rwkv.blocks.{}.ln1.weight": same("time_norm.scale"),
    "rwkv.blocks.{}.ln1.bias": same("time_norm.bias"),
    "rwkv.blocks.{}.ln2.weight": same("channel_norm.scale"),
    "rwkv.blocks.{}.ln2.bias": same("channel_norm.bias"),
    "rwkv.blocks.{}.attention.time_decay": same("time.decay"),
    "rwkv.blocks.{}.attention.time_first": same("time.bonus"),
    "rwkv.blocks.{}.attention.time_mix_key": Row(("time.mix_k",)),
    "rwkv.blocks.{}.attention.time_mix_value": Row(("time.mix_v",)),
    "rwkv.blocks.{}.attention.time_mix_receptance": Row(("time.mix_r",)),
    "rwkv.blocks.{}.attention.key.weight": linear("time.k"),
    "rwkv.blocks.{}.attention.value.weight": linear("time.v"),
    "rwkv.blocks.{}.attention.receptance.weight": linear("time.r"),
    "rwkv.blocks.{}.attention.output.weight": linear("time.o"),
    "rwkv.blocks.{}.feed_forward.time_mix_key": Row(("channel.mix_k",)),
    "rwkv.blocks.{}.feed_forward.time_mix_receptance": Row(("channel.mix_r",)),
    "rwkv.blocks.{}.feed_forward.key.weight": linear("channel.k"),
    "rwkv.blocks.{}.feed_forward.receptance.weight": linear("channel.r"),
    "rwkv.blocks.{}.feed_forward.value.weight": linear("channel.o"),
    "rwkv.ln_out.weight": same("norm.scale"),
    "rwkv.ln_out.bias": same("norm.bias"),
    "head.weight": linear("head"),
}


def config(c: Fields) -> LMConfig:
    D, eps = c.size("hidden_size"), c.positive("layer_norm_epsilon", default=1e-5)
    layer = rwkv_layer(D, c.size("attention_hidden_size", default=D), c.size("intermediate_size", default=4 * D), eps)
    return LMConfig(
        V=c.size("vocab_size"),
        D=D,
        layers=group_layers([layer] * layers(c)),
        norm=LayerNormConfig(eps),
        tied=c.bool("tie_word_embeddings", default=False),
        embed_norm=LayerNormConfig(eps),
    )


def fields(config: LMConfig) -> dict[str, Any] | None:
    """What config.json says of a model of RWKV-4 layers."""
    layer = config.layers[0].blocks[0]
    found = {type(part): part for part in layer.parts.values()} if isinstance(layer, BranchesConfig) else {}
    time, channel = found.get(TimeMixConfig), found.get(ChannelMixConfig)
    if not isinstance(time, TimeMixConfig) or not isinstance(channel, ChannelMixConfig):
        return None
    return {
        "vocab_size": config.V,
        "hidden_size": config.D,
        "num_hidden_layers": config.depth,
        "attention_hidden_size": time.Z,
        "intermediate_size": channel.F,
        "layer_norm_epsilon": getattr(config.norm, "eps", None),
        "tie_word_embeddings": config.tied,
    }
