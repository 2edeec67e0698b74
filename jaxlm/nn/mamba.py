"""Mamba as a mixer: the module that owns the projections around a selective state space, and is all of a layer."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.nn import init
from jaxlm.nn.context import Context
from jaxlm.nn.heads import keep
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.state import Recurrent, zeros
from jaxlm.ops.conv import causal_conv
from jaxlm.ops.norms import rms_norm
from jaxlm.ops.selective_scan import CHUNK, selective_scan
from jaxlm.sharding import einsum, weight


@dataclasses.dataclass(frozen=True)
class MambaConfig(MixerConfig):
    """Mamba (Gu & Dao 2023, arXiv:2312.00752): y = (scan(silu(conv(x in))) * silu(x gate)) out.

    A layer is `BlockConfig(MambaConfig(F=2 * D), None)`. The F channels are divided over the devices that divide
    feed-forward layers.
    """

    F: int  # channels
    Z: int = 16  # states of each
    W: int = 4  # tokens that the convolution sees
    L: int | None = None  # width that the step sizes come from; None: a sixteenth of the model's, rounded up
    bias: bool = False  # of the projections in and out
    conv_bias: bool = True
    eps: float | None = None  # of RMS norms without weights over what step sizes, B and C come from (Falcon Mamba)
    chunk_size: int = CHUNK  # positions that are computed in parallel

    def __post_init__(self):
        check(self, F=">= 1", Z=">= 1", W=">= 2", L=">= 1", eps="> 0", chunk_size=">= 1")

    def build(self, depth: int, name: str) -> nn.Module:
        return Mamba(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Recurrent:
        """Zeros, float32 (B, W - 1, F) and (B, F, Z), whatever the length and the dtype."""
        conv = zeros((B, self.W - 1, self.F), "batch", None, "mlp")
        return Recurrent((conv, zeros((B, self.F, self.Z), "batch", "mlp", None)))

    def score_flops(self, T: int) -> float:
        """Of the convolution, and of the states: decay, input and reading."""
        return 2 * self.W * self.F + 6 * self.F * self.Z


class Mamba(nn.Module):
    """x_BTD, context, past -> y_BTD, state: the last inputs of the convolution and the states behind the last token.

    Where positions are divided over devices, each has the whole row: one state runs along it.
    """

    c: MambaConfig
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Recurrent | None = None) -> tuple[Array, Recurrent]:
        c, (_, T, D), dtype = self.c, x_BTD.shape, x_BTD.dtype
        L = c.L or math.ceil(D / 16)
        segments_BT = context.whole_segments_BT
        conv, state = (None, None) if past is None else past.value
        gate_BTF, x_BTF = self._into("gate", x_BTD), self._into("x", x_BTD)
        w_WF = weight(self, "conv", (c.W, c.F), (None, "mlp"), init.fan_in((0,)))
        bias_F = weight(self, "conv_bias", (c.F,), ("mlp",)) if c.conv_bias else None
        x_BTF, conv = causal_conv(x_BTF, w_WF, bias_F, conv, segments_BT)
        x_BTF = jax.nn.silu(x_BTF)
        low_BTL, b_BTZ, c_BTZ = (self._steer(*at, x_BTF) for at in (("dt_in", L), ("b", c.Z), ("c", c.Z)))
        w_LF = weight(self, "dt", (L, c.F), (None, "mlp"), _uniform, (0,))
        delta_BTF = einsum("btl,lf->btf", low_BTL, w_LF.astype(dtype)).astype(jnp.float32)
        delta_BTF += weight(self, "dt_bias", (c.F,), ("mlp",), init.step_size)[None, None]
        a_FZ = -jnp.exp(weight(self, "a_log", (c.F, c.Z), ("mlp", None), _rates))
        skip_F = weight(self, "skip", (c.F,), ("mlp",), nn.initializers.ones_init())
        y_BTF, state = selective_scan(
            x_BTF, jax.nn.softplus(delta_BTF), a_FZ, b_BTZ, c_BTZ, skip_F, state, segments_BT, c.chunk_size
        )
        y_BTF = sharding.constrain(y_BTF * jax.nn.silu(gate_BTF), *sharding.rows(T)[:2], "mlp")
        w_FD = weight(self, "o", (c.F, D), ("mlp", "embed"), init.residual((0,), self.depth), (0,))
        y_BTD = einsum("btf,fd->btd", y_BTF, w_FD.astype(dtype), out=sharding.stream(T))
        if c.bias:
            y_BTD += weight(self, "o_bias", (D,), (None,)).astype(dtype)[None, None]
        return checkpoint_name(y_BTD, "out"), Recurrent((conv, state))

    def _into(self, name: str, x_BTD: Array) -> Array:
        """A product into the channels, of whole rows."""
        w_DF = weight(self, name, (x_BTD.shape[-1], self.c.F), ("embed", "mlp"), init.fan_in((0,)), (0,))
        y_BTF = einsum("btd,df->btf", x_BTD, w_DF.astype(x_BTD.dtype))
        if self.c.bias:
            y_BTF += weight(self, f"{name}_bias", (self.c.F,), ("mlp",)).astype(x_BTD.dtype)[None, None]
        return keep(sharding.constrain(y_BTF, "batch", None, "mlp"))[0]

    def _steer(self, name: str, width: int, x_BTF: Array) -> Array:
        """What steers the scan: products of all channels."""
        w_FZ = weight(self, name, (self.c.F, width), ("mlp", None), init.fan_in((0,)), (0,))
        y_BTZ = einsum("btf,fz->btz", x_BTF, w_FZ.astype(x_BTF.dtype), out=("batch", None, None))
        return y_BTZ if self.c.eps is None else rms_norm(y_BTZ, None, self.c.eps)


def _uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """(L, F): within 1 / sqrt(L) of zero."""
    return jax.random.uniform(key, shape, dtype, -(shape[0] ** -0.5), shape[0] ** -0.5)


def _rates(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """(F, Z): logarithms of 1, 2, ..., Z (S4D-real; Gu et al. 2022, arXiv:2206.11893)."""
    return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[1] + 1, dtype=dtype))[None], shape)
