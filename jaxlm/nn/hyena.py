"""Hyena as a mixer: the module that owns the projections, a short convolution and long implicit filters."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn import init
from jaxlm.nn.context import Context
from jaxlm.nn.heads import keep
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.s4 import out
from jaxlm.nn.state import KVSlots, Recurrent, zeros
from jaxlm.ops.conv import causal_conv
from jaxlm.ops.hyena import conv_with_past, filter_features, filter_window
from jaxlm.ops.long_conv import long_conv
from jaxlm.sharding import einsum, weight


@dataclasses.dataclass(frozen=True)
class HyenaConfig(MixerConfig):
    """Hyena of some order (Poli et al. 2023, arXiv:2302.10866): v, x_1, ..., x_order are short convolutions of products
    of x; u_1 = v, u_(n + 1) = x_n * (h_n conv u_n), y = u_(order + 1) out.

    The filters h are a small network's values at each position, in a window that decays. While decoding every token
    costs O(S) for the S before it, as many products as the row has inputs, and the filters' network again for the whole
    row; the state is that row: order S F numbers. Channels are divided over the devices that divide feed-forwards.
    """

    F: int  # channels
    length: int  # positions in which the filters' window and waves are measured; longer texts go on as they began
    order: int = 2
    W: int = 3  # tokens that the short convolution sees
    E: int = 33  # features of a position: an odd number
    L: int = 64  # width of the filters' network
    wave: float = 14.0  # frequency of its sines, as they begin

    def __post_init__(self):
        check(self, F=">= 1", length=">= 1", order=">= 1", W=">= 2", E=">= 3", L=">= 1", wave="> 0")
        if not self.E % 2:
            raise UserError(f"E={self.E} features of a position must be odd: its share, and pairs of cos and sin")

    def build(self, depth: int, name: str) -> nn.Module:
        return Hyena(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> dict[str, Any]:
        """Zeros: float32 (B, W - 1, order + 1, F), the last inputs of the short convolution, and (B, order, length, F),
        those of the long ones."""
        conv = zeros((B, self.W - 1, self.order + 1, self.F), "batch", None, None, "mlp")
        row = zeros((B, self.order, length, self.F), "batch", None, None, "mlp", dtype=dtype)
        return {"conv": Recurrent(conv), "row": KVSlots(row)}

    def score_flops(self, T: int) -> float:
        """Of the convolutions."""
        return 2 * self.W * (self.order + 1) * self.F + 20 * self.order * self.F * max(1.0, math.log2(2 * T))


class Hyena(nn.Module):
    """x_BTD, context, past -> y_BTD, state: the last inputs of the short convolution, and those of the long ones at
    each of the tokens. Where positions are divided over devices, each has the whole row."""

    c: HyenaConfig
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Any = None) -> tuple[Array, dict[str, Any]]:
        c, (_, T, D), segments_BT = self.c, x_BTD.shape, context.whole_segments_BT
        w_DnF = weight(self, "x", (D, c.order + 1, c.F), ("embed", None, "mlp"), init.fan_in((0,)), (0,))
        x_BTnF = einsum("btd,dnf->btnf", x_BTD, w_DnF.astype(x_BTD.dtype))
        (x_BTnF,) = keep(sharding.constrain(x_BTnF, "batch", None, None, "mlp"))
        w_WnF = weight(self, "conv", (c.W, c.order + 1, c.F), (None, None, "mlp"), init.fan_in((0,)))
        bias_nF = weight(self, "conv_bias", (c.order + 1, c.F), (None, "mlp"))
        x_BTnF, conv = causal_conv(x_BTnF, w_WnF, bias_nF, None if past is None else past["conv"].value, segments_BT)
        row = None if past is None else past["row"].value
        k_nSF = self._filters(T if row is None else row.shape[2] + T)
        u_BTF, inputs = x_BTnF[:, :, 0], []
        for n in range(c.order):
            inputs.append(u_BTF)
            y_BTF = long_conv(u_BTF, k_nSF[n], segments_BT)
            if row is not None:
                more_BTF = conv_with_past(row[:, n], k_nSF[n], context.end, context.start_B, T)
                y_BTF = (y_BTF + more_BTF).astype(u_BTF.dtype)
            u_BTF = x_BTnF[:, :, n + 1] * y_BTF
        y_BTD = out(self, "o", sharding.constrain(u_BTF, *sharding.rows(T)[:2], "mlp"), D, self.depth)
        return checkpoint_name(y_BTD, "out"), {"conv": Recurrent(conv), "row": KVSlots(jnp.stack(inputs, 1))}

    def _filters(self, S: int) -> Array:
        """(order, S, F), float32, the weight of the token itself first."""
        c = self.c
        h_SL, width = filter_features(S, c.length, c.E), c.E
        sine = weight(self, "wave", (c.L,), (None,), nn.initializers.constant(c.wave))
        for i in range(3):
            w = weight(self, f"filter{i}", (width, c.L), (None, None), init.fan_in((0,)), (0,))
            h_SL = jnp.sin(sine[None] * (h_SL @ w + weight(self, f"filter{i}_bias", (c.L,), (None,))[None]))
            width = c.L
        w_LnF = weight(self, "filter", (c.L, c.order, c.F), (None, None, "mlp"), init.fan_in((0,)), (0,))
        k_nSF = jnp.einsum("sl,lnf->nsf", h_SL, w_LnF)
        k_nSF *= filter_window(S, c.length, c.F)[None]
        return k_nSF.at[:, 0].add(weight(self, "skip", (c.order, c.F), (None, "mlp"), nn.initializers.normal(1.0)))
