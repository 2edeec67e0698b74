"""Mamba-2 (arXiv:2405.21060): one projection in, of gate, x, B, C and step sizes; one convolution of x, B and C."""

import math
from typing import Any

from jaxlm.convert.depthwise import depthwise
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import Rule, flat, linear, same
from jaxlm.convert.usual import layers
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, Mamba2Config, RMSNormConfig, group_layers

MODEL_TYPES = {"mamba2": "Mamba2ForCausalLM"}


def mixer_names(at: str) -> dict[str, Rule]:
    """The tensors of a mixer, which stands in files at `at`."""
    return {
        f"{at}.in_proj.weight": linear("mixer.gate", "mixer.x", "mixer.b", "mixer.c", "mixer.dt"),
        f"{at}.conv1d.weight": depthwise("mixer.conv_x", "mixer.conv_b", "mixer.conv_c"),
        f"{at}.conv1d.bias": flat("mixer.conv_x_bias", "mixer.conv_b_bias", "mixer.conv_c_bias"),
        f"{at}.dt_bias": same("mixer.dt_bias"),
        f"{at}.A_log": same("mixer.a_log"),
        f"{at}.D": same("mixer.skip"),
        f"{at}.norm.weight": flat("mixer.norm"),
        f"{at}.out_proj.weight": linear("mixer.o"),
    }


NAMES = {
    "backbone.embeddings.weight": same("embed.table"),
    "backbone.layers.{}.norm.weight": same("norm1.scale"),
    **mixer_names("backbone.layers.{}.mixer"),
    "backbone.norm_f.weight": same("norm.scale"),
    "lm_head.weight": linear("head"),
}
SPELLINGS = ({"backbone.embeddings.": "backbone.embedding."},)  # files of the paper's own code
INFINITE = (math.inf, {"__float__": "Infinity"})  # as transformers has written it


def config(c: Fields) -> LMConfig:
    c.one_of("hidden_act", among={"silu": "silu"}, default="silu")
    if c.bool("use_bias", default=False):
        raise c.error("use_bias", "is true: no published model is, and it is not supported")
    limit = c.list("time_step_limit", default=None) or [0.0, math.inf]
    if len(limit) != 2 or limit[0] != 0 or limit[1] not in INFINITE:
        raise c.error("time_step_limit", f"other than from 0 to infinity is not supported, not {str(limit)[:60]}")
    D, H, K = c.size("hidden_size"), c.size("num_heads", default=128), c.size("head_dim", default=64)
    if D * c.size("expand", default=2) != H * K:
        raise c.error("num_heads", f"{H} of width {K} are not expand times hidden_size {D}")
    eps = c.positive("layer_norm_epsilon", default=1e-5)
    mixer = Mamba2Config(
        H,
        K,
        G=c.size("n_groups", default=8),
        Z=c.size("state_size", default=128),
        W=c.size("conv_kernel", default=4),
        conv_bias=c.bool("use_conv_bias", default=True),
        eps=eps,
    )
    return LMConfig(
        V=c.size("vocab_size"),
        D=D,
        layers=group_layers([BlockConfig(mixer, None, RMSNormConfig(eps))] * layers(c)),
        norm=RMSNormConfig(eps),
        tied=c.bool("tie_word_embeddings", default=False),
    )


def fields(config: LMConfig) -> dict[str, Any] | None:
    """What config.json says of a model of Mamba-2 layers."""
    mixer = getattr(config.layers[0].blocks[0], "mixer", None)
    if not isinstance(mixer, Mamba2Config):
        return None
    return {
        "vocab_size": config.V,
        "hidden_size": config.D,
        "num_hidden_layers": config.depth,
        "expand": mixer.H * mixer.K // config.D,
        "num_heads": mixer.H,
        "head_dim": mixer.K,
        "n_groups": mixer.G,
        "state_size": mixer.Z,
        "conv_kernel": mixer.W,
        "use_conv_bias": mixer.conv_bias,
        "layer_norm_epsilon": mixer.eps,
        "tie_word_embeddings": config.tied,
    }
