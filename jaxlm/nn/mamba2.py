"""Mamba-2 as a mixer: the module that owns the projections around state space duality, and is all of a layer."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn import init
from jaxlm.nn.context import Context
from jaxlm.nn.heads import keep, merge, split, whole_heads
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.state import Recurrent, zeros
from jaxlm.ops.conv import causal_conv
from jaxlm.ops.norms import grouped_rms_norm
from jaxlm.ops.ssd import CHUNK, ssd
from jaxlm.sharding import einsum, weight


@dataclasses.dataclass(frozen=True)
class Mamba2Config(MixerConfig):
    """Mamba-2 (Dao & Gu 2024, arXiv:2405.21060): y = norm(ssd(silu(conv(x in))) * silu(x gate)) out.

    A layer is `BlockConfig(Mamba2Config(H=2 * D // 64), None)`. Heads are divided over the devices that divide those of
    attention; B and C, which groups of them share, are not.
    """

    H: int  # heads
    K: int = 64  # width of each
    G: int = 1  # groups of heads, which share B and C, and are normed together
    Z: int = 128  # states of each channel
    W: int = 4  # tokens that the convolution sees
    conv_bias: bool = True
    eps: float = 1e-5  # of the norm
    chunk_size: int = CHUNK  # positions that are computed in parallel
    least_step: float = 0.0  # of the step sizes

    def __post_init__(self):
        check(self, **dict.fromkeys("HKGZ", ">= 1"), W=">= 2", eps="> 0", chunk_size=">= 1")
        check(self, least_step=">= 0")
        if self.H % self.G:
            raise UserError(f"G={self.G} groups must divide H={self.H} heads")

    def build(self, depth: int, name: str) -> nn.Module:
        return Mamba2(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Recurrent:
        """Zeros, float32: the last inputs of the convolutions of x, B and C, and (B, H, K, Z), whatever the length and
        the dtype."""
        x = zeros((B, self.W - 1, self.H, self.K), "batch", None, "heads", None)
        b = zeros((B, self.W - 1, self.G, self.Z), "batch", None, None, None)
        return Recurrent(((x, b, b), zeros((B, self.H, self.K, self.Z), "batch", "heads", None, None)))

    def score_flops(self, T: int) -> float:
        """Of the convolutions, of a chunk's scores and their products, and of the states."""
        C = min(self.chunk_size, T)
        conv = 2 * self.W * (self.H * self.K + 2 * self.G * self.Z)
        return conv + 2 * C * (self.G * self.Z + self.H * self.K) + 4 * self.H * self.K * self.Z


class Mamba2(nn.Module):
    """x_BTD, context, past -> y_BTD, state: the last inputs of the convolutions and the states behind the last token.

    Where positions are divided over devices, each has the whole row: one state runs along it.
    """

    c: Mamba2Config
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Recurrent | None = None) -> tuple[Array, Recurrent]:
        c, D = self.c, x_BTD.shape[-1]
        H, K = c.H, c.K
        segments_BT = context.whole_segments_BT
        convs, state = ((None, None, None), None) if past is None else past.value
        heads = lambda name: whole_heads(split(self, name, x_BTD, H, K))
        gate_BTHK, x_BTHK = heads("gate"), heads("x")
        b_BTGZ, c_BTGZ = (self._shared(name, x_BTD) for name in ("b", "c"))
        inputs = {"x": x_BTHK, "b": b_BTGZ, "c": c_BTGZ}
        found = [self._conv(name, x, conv, segments_BT) for (name, x), conv in zip(inputs.items(), convs)]
        x_BTHK, b_BTGZ, c_BTGZ = (x for x, _ in found)
        w_DH = weight(self, "dt", (D, H), ("embed", "heads"), init.fan_in((0,)), (0,))
        delta_BTH = einsum("btd,dh->bth", x_BTD, w_DH.astype(x_BTD.dtype)).astype(jnp.float32)
        delta_BTH += weight(self, "dt_bias", (H,), ("heads",), init.step_size)[None, None]
        delta_BTH = jax.nn.softplus(sharding.constrain(delta_BTH, "batch", None, "heads"))
        delta_BTH = jnp.maximum(delta_BTH, c.least_step) if c.least_step else delta_BTH
        a_H = -jnp.exp(weight(self, "a_log", (H,), ("heads",), init.rates))
        skip_H = weight(self, "skip", (H,), ("heads",), nn.initializers.ones_init())
        y_BTHK, state = ssd(x_BTHK, delta_BTH, a_H, b_BTGZ, c_BTGZ, skip_H, state, segments_BT, c.chunk_size)
        scale_HK = weight(self, "norm", (H, K), ("heads", None), nn.initializers.ones_init())
        y_BTHK = grouped_rms_norm(y_BTHK * jax.nn.silu(gate_BTHK), scale_HK, c.G, c.eps)
        return merge(self, "o", y_BTHK, D, self.depth), Recurrent((tuple(conv for _, conv in found), state))

    def _shared(self, name: str, x_BTD: Array) -> Array:
        """B or C, of whole rows, the same on all devices that divide heads."""
        w_DGZ = weight(
            self, name, (x_BTD.shape[-1], self.c.G, self.c.Z), ("embed", None, None), init.fan_in((0,)), (0,)
        )
        y_BTGZ = einsum("btd,dgz->btgz", x_BTD, w_DGZ.astype(x_BTD.dtype))
        return keep(sharding.constrain(y_BTGZ, "batch", None, None, None))[0]

    def _conv(self, name: str, x: Array, past: Array | None, segments_BT: Array | None) -> tuple[Array, Array]:
        """silu of the convolution."""
        names = ("heads" if name == "x" else None, None)
        w_WHK = weight(self, f"conv_{name}", (self.c.W, *x.shape[2:]), (None, *names), init.fan_in((0,)))
        bias_HK = weight(self, f"conv_{name}_bias", x.shape[2:], names) if self.c.conv_bias else None
        y, past = causal_conv(x, w_WHK, bias_HK, past, segments_BT)
        return jax.nn.silu(y), past
