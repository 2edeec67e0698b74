"""Mamba (arXiv:2312.00752), and Falcon Mamba (arXiv:2410.05355), which norms what steers the scan."""

from typing import Any

from jaxlm.convert.depthwise import depthwise
from jaxlm.convert.fields import Fields
from jaxlm.convert.names import flat, linear, same
from jaxlm.convert.usual import layers
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, MambaConfig, RMSNormConfig, group_layers

MODEL_TYPES = {"mamba": "MambaForCausalLM", "falcon_mamba": "FalconMambaForCausalLM"}

NAMES = {
    "backbone.embeddings.weight": same("embed.table"),
    "backbone.layers.{}.norm.weight": same("norm1.scale"),
    "backbone.layers.{}.mixer.in_proj.weight": linear("mixer.x", "mixer.gate"),
    "backbone.layers.{}.mixer.in_proj.bias": flat("mixer.x_bias", "mixer.gate_bias"),
    "backbone.layers.{}.mixer.conv1d.weight": depthwise("mixer.conv"),
    "backbone.layers.{}.mixer.conv1d.bias": same("mixer.conv_bias"),
    "backbone.layers.{}.mixer.x_proj.weight": linear("mixer.dt_in", "mixer.b", "mixer.c"),
    "backbone.layers.{}.mixer.dt_proj.weight": linear("mixer.dt"),
    "backbone.layers.{}.mixer.dt_proj.bias": same("mixer.dt_bias"),
    "backbone.layers.{}.mixer.A_log": same("mixer.a_log"),
    "backbone.layers.{}.mixer.D": same("mixer.skip"),
    "backbone.layers.{}.mixer.out_proj.weight": linear("mixer.o"),
    "backbone.layers.{}.mixer.out_proj.bias": same("mixer.o_bias"),
    "backbone.norm_f.weight": same("norm.scale"),
    "lm_head.weight": linear("head"),
}
SPELLINGS = ({"backbone.embeddings.": "backbone.embedding."},)  # files of the paper's own code


def config(c: Fields) -> LMConfig:
    c.one_of("hidden_act", among={"silu": "silu"}, default="silu")
    D, rank = c.size("hidden_size", "d_model"), c.get("time_step_rank", default="auto")
    norm = RMSNormConfig(c.float("layer_norm_epsilon", default=1e-5))
    mixer = MambaConfig(
        F=c.size("expand", default=2) * D,
        Z=c.size("state_size", default=16),
        W=c.size("conv_kernel", default=4),
        L=None if rank == "auto" else c.size("time_step_rank"),
        bias=c.bool("use_bias", default=False),
        conv_bias=c.bool("use_conv_bias", default=True),
        eps=c.positive("mixer_rms_eps", default=1e-6) if c.get("model_type") == "falcon_mamba" else None,
    )
    return LMConfig(
        V=c.size("vocab_size"),
        D=D,
        layers=group_layers([BlockConfig(mixer, None, norm)] * layers(c, "num_hidden_layers", "n_layer")),
        norm=norm,
        tied=c.bool("tie_word_embeddings", default=True),
    )


def fields(config: LMConfig) -> dict[str, Any] | None:
    """What config.json says of a model of Mamba layers."""
    mixer = getattr(config.layers[0].blocks[0], "mixer", None)
    if not isinstance(mixer, MambaConfig):
        return None
    return {
        "vocab_size": config.V,
        "hidden_size": config.D,
        "num_hidden_layers": config.depth,
        "expand": mixer.F // config.D,
        "state_size": mixer.Z,
        "conv_kernel": mixer.W,
        "time_step_rank": mixer.L or "auto",
        "use_bias": mixer.bias,
        "use_conv_bias": mixer.conv_bias,
        "mixer_rms_eps": mixer.eps,
        "layer_norm_epsilon": getattr(config.norm, "eps", None),
        "tie_word_embeddings": config.tied,
    }
