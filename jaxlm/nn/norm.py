"""RMSNorm and LayerNorm, which own their scale (and bias)."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.ops.norms import layer_norm, rms_norm
from jaxlm.sharding import weight


@dataclasses.dataclass(frozen=True)
class RMSNormConfig:
    """RMSNorm, see `ops.norms.rms_norm`."""

    eps: float = 1e-6
    scale: bool = True
    zero_centered: bool = False  # the scale is 1 + w (Gemma): weight decay pulls it to one

    def __post_init__(self):
        check(self, eps=">= 0")

    def build(self, name: str) -> nn.Module:
        return RMSNorm(self, name=name)


@dataclasses.dataclass(frozen=True)
class LayerNormConfig:
    """LayerNorm, see `ops.norms.layer_norm`."""

    eps: float = 1e-5
    scale: bool = True
    bias: bool = True
    zero_centered: bool = False  # the scale is 1 + w (Nemotron)

    def __post_init__(self):
        check(self, eps=">= 0")

    def build(self, name: str) -> nn.Module:
        return LayerNorm(self, name=name)


NormConfig = RMSNormConfig | LayerNormConfig


class RMSNorm(nn.Module):
    """x -> x, over the last axis; see `ops.norms.rms_norm`.

    Queries and keys x_BTHK may be normed otherwise: `per_head` gives every head a scale of its own, `joint` norms all
    heads at once (and has a scale for each entry of each).
    """

    c: RMSNormConfig = RMSNormConfig()

    @nn.compact
    def __call__(self, x: Array, per_head: bool = False, joint: bool = False) -> Array:
        scale = _scale(self, *_shape(x, per_head or joint)) if self.c.scale else None
        return rms_norm(x, scale, self.c.eps, 1 + joint)


class LayerNorm(nn.Module):
    """x -> x, over the last axis or as `RMSNorm` has it; see `ops.norms.layer_norm`."""

    c: LayerNormConfig = LayerNormConfig()

    @nn.compact
    def __call__(self, x: Array, per_head: bool = False, joint: bool = False) -> Array:
        shape = _shape(x, per_head or joint)
        scale = _scale(self, *shape) if self.c.scale else None
        bias = weight(self, "bias", *shape) if self.c.bias else None
        return layer_norm(x, scale, bias, self.c.eps, 1 + joint)


def read(c: NormConfig | None, name: str, x_BTD: Array) -> Array:
    """What a branch reads from the residual stream: normed where there is a norm, and gathered where the stream is
    divided over positions."""
    h_BTD = x_BTD if c is None else c.build(name)(x_BTD)
    return sharding.constrain(h_BTD, *sharding.rows(h_BTD.shape[1]))


def _scale(module: RMSNorm | LayerNorm, shape: tuple[int, ...], names: tuple[str | None, ...]) -> Array:
    centered = module.c.zero_centered
    one = nn.initializers.zeros_init() if centered else nn.initializers.ones_init()
    scale = weight(module, "scale", shape, names, one)
    return scale.astype(jnp.float32) + 1 if centered else scale


def _shape(x: Array, heads: bool) -> tuple[tuple[int, ...], tuple[str | None, ...]]:
    return (x.shape[-2:], ("heads", None)) if heads else (x.shape[-1:], (None,))
