"""Norms that own their scale (and bias)."""

import dataclasses

import flax.linen as nn

from jaxlm.axes import Array
from jaxlm.ops.norms import layer_norm, rms_norm
from jaxlm.sharding import weight


@dataclasses.dataclass(frozen=True)
class RMSNormConfig:
    eps: float = 1e-6

    def build(self, name: str) -> nn.Module:
        return RMSNorm(self, name=name)


@dataclasses.dataclass(frozen=True)
class LayerNormConfig:
    eps: float = 1e-5
    bias: bool = True

    def build(self, name: str) -> nn.Module:
        return LayerNorm(self, name=name)


NormConfig = RMSNormConfig | LayerNormConfig


class RMSNorm(nn.Module):
    """x_BTD -> x_BTD, see `ops.norms.rms_norm`."""

    c: RMSNormConfig = RMSNormConfig()

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        scale_D = weight(self, "scale", x_BTD.shape[-1:], (None,), nn.initializers.ones_init())
        return rms_norm(x_BTD, scale_D, self.c.eps)


class LayerNorm(nn.Module):
    """x_BTD -> x_BTD, see `ops.norms.layer_norm`."""

    c: LayerNormConfig = LayerNormConfig()

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        scale_D = weight(self, "scale", x_BTD.shape[-1:], (None,), nn.initializers.ones_init())
        bias_D = weight(self, "bias", x_BTD.shape[-1:], (None,)) if self.c.bias else None
        return layer_norm(x_BTD, scale_D, bias_D, self.c.eps)
