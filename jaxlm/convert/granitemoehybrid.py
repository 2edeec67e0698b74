"""Granite 4 (IBM 2025): nine layers of Mamba-2 to one of attention, Granite's factors, and a mixture beside a shared
expert, or only that."""

import dataclasses

from jaxlm.convert import granite, granitemoe, mamba2, rope
from jaxlm.convert.fields import Fields
from jaxlm.convert.granite import IGNORED
from jaxlm.convert.names import beside
from jaxlm.convert.usual import layers, norm
from jaxlm.models import LMConfig
from jaxlm.nn import BlockConfig, Mamba2Config, group_layers

__all__ = ["DEFAULTS", "IGNORED", "MAMBA", "MODEL_TYPES", "NAMES", "config", "mamba"]

MODEL_TYPES = {"granitemoehybrid": "GraniteMoeHybridForCausalLM"}
DEFAULTS = {"max_position_embeddings": 2_048}
MAMBA = beside("mixer.dt", mamba2.mixer_names("model.layers.{}.mamba"))
NAMES = MAMBA | granitemoe.NAMES


def config(c: Fields) -> LMConfig:
    base, ffn = granitemoe.config(c), granitemoe.ffn(c)
    turned = rope.read(c) if c.str("position_embedding_type", default="rope") == "rope" else None
    whole = granite.mixer(c, rope=turned)
    scale = c.float("residual_multiplier", default=1.0)
    block = {
        kind: BlockConfig(mixer, ffn, norm(c), scale=scale)
        for kind, mixer in (("mamba", mamba(c)), ("attention", whole))
    }
    return dataclasses.replace(base, layers=group_layers([block[kind] for kind in kinds(c)]))


def kinds(c: Fields) -> list[str]:
    """Of each layer, mamba or attention."""
    N, words = layers(c), {"linear_attention": "mamba", "full_attention": "attention"}
    found = c.list("layers_block_type", "layer_types", default=["mamba"] * N)
    found = [words.get(str(kind), str(kind)) for kind in found]
    if len(found) != N or not {*found} <= {"mamba", "attention"}:
        raise c.error("layer_types", f"must say mamba or attention for each of {N} layers, not {str(found)[:60]}")
    return found


def mamba(c: Fields) -> Mamba2Config:
    c.one_of("hidden_act", among={"silu": "silu"}, default="silu")
    if c.bool("mamba_proj_bias", default=False):
        raise c.error("mamba_proj_bias", "is true: no published model is, and it is not supported")
    D, H, expand = c.size("hidden_size"), c.size("mamba_n_heads", default=128), c.size("mamba_expand", default=2)
    K = expand * D // H if c.get("mamba_d_head", default="auto") == "auto" else c.size("mamba_d_head")
    if expand * D != H * K:
        raise c.error("mamba_n_heads", f"{H} of width {K} are not mamba_expand times hidden_size {D}")
    return Mamba2Config(
        H,
        K,
        G=c.size("mamba_n_groups", default=1),
        Z=c.size("mamba_d_state", default=256),
        W=c.size("mamba_d_conv", default=4),
        conv_bias=c.bool("mamba_conv_bias", default=True),
        eps=c.positive("rms_norm_eps", default=1e-6),
    )
