"""H3 as a mixer: the module that owns q, k and v, a short memory of k and a long one of k v."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.nn import init
from jaxlm.nn.context import Context
from jaxlm.nn.heads import keep
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.s4 import complex_weight, out, rates, steps
from jaxlm.nn.state import Recurrent, zeros
from jaxlm.ops.conv import causal_conv
from jaxlm.ops.ssm import CHUNK, diagonal_conv, diagonal_scan, s4d_rates, zero_order_hold
from jaxlm.sharding import einsum, weight


@dataclasses.dataclass(frozen=True)
class H3Config(MixerConfig):
    """Hungry hungry hippos (Fu et al. 2023, arXiv:2212.14052): y = (q * diagonal(shift(k) * v)) out.

    The shift, a state space that holds the last W inputs, is a convolution of W weights; the diagonal one is S4D. The
    channels are divided over the devices that divide feed-forward layers.
    """

    F: int  # channels
    Z: int = 32  # complex states of each in the diagonal state space: half of the N of papers
    W: int = 64  # tokens that the shift holds
    chunk_size: int = CHUNK  # positions of the scan that are computed in parallel

    def __post_init__(self):
        check(self, F=">= 1", Z=">= 1", W=">= 2", chunk_size=">= 1")

    def build(self, depth: int, name: str) -> nn.Module:
        return H3(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Recurrent:
        """Zeros, float32 (B, W - 1, F) and complex64 (B, F, Z), whatever the length and the dtype."""
        conv = zeros((B, self.W - 1, self.F), "batch", None, "mlp")
        return Recurrent((conv, zeros((B, self.F, self.Z), "batch", "mlp", None, dtype=jnp.complex64)))

    def score_flops(self, T: int) -> float:
        """Of the shift and the transforms."""
        return 2 * self.W * self.F + 20 * self.F * max(1.0, math.log2(2 * T))


class H3(nn.Module):
    """x_BTD, context, past -> y_BTD, state: the last inputs of the shift and the states behind the last token.

    Where positions are divided over devices, each has the whole row: one state runs along it.
    """

    c: H3Config
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Recurrent | None = None) -> tuple[Array, Recurrent]:
        c, (_, T, D), segments_BT = self.c, x_BTD.shape, context.whole_segments_BT
        conv, state = (None, None) if past is None else past.value
        q_BTF, k_BTF, v_BTF = (into(self, name, x_BTD, c.F) for name in "qkv")
        k_BTF, conv = causal_conv(
            k_BTF, weight(self, "shift", (c.W, c.F), (None, "mlp"), init.fan_in((0,))), None, conv, segments_BT
        )
        dt_F = jnp.exp(weight(self, "log_dt", (c.F,), ("mlp",), steps(1e-3, 1e-1)))
        read_FZ = complex_weight(self, "c", (c.F, c.Z), nn.initializers.normal(0.5**0.5))
        log_FZ, read_FZ = zero_order_hold(rates(self, c.F, s4d_rates(c.Z, "lin")), read_FZ, dt_F)
        skip_F = weight(self, "skip", (c.F,), ("mlp",), nn.initializers.normal(1.0))
        y_BTF, last = diagonal_scan(k_BTF * v_BTF, log_FZ, read_FZ, skip_F, state, segments_BT, c.chunk_size)
        if past is None:
            y_BTF = diagonal_conv(k_BTF * v_BTF, log_FZ, read_FZ, skip_F, segments_BT)
        y_BTF = sharding.constrain(q_BTF * y_BTF, *sharding.rows(T)[:2], "mlp")
        return checkpoint_name(out(self, "o", y_BTF, D, self.depth), "out"), Recurrent((conv, last))


def into(module: nn.Module, name: str, x_BTD: Array, F: int) -> Array:
    """A product into the channels, of whole rows."""
    w_DF = weight(module, name, (x_BTD.shape[-1], F), ("embed", "mlp"), init.fan_in((0,)), (0,))
    y_BTF = einsum("btd,df->btf", x_BTD, w_DF.astype(x_BTD.dtype))
    return keep(sharding.constrain(y_BTF, "batch", None, "mlp"))[0]
