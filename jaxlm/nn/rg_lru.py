"""Griffin's recurrent block as a mixer: the module that owns the projections, the convolution and the gates."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError, unknown
from jaxlm.nn import init
from jaxlm.nn.context import Context
from jaxlm.nn.heads import keep, merge, split
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.state import Recurrent, zeros
from jaxlm.ops.activations import ACTIVATIONS
from jaxlm.ops.conv import causal_conv
from jaxlm.ops.rg_lru import CHUNK, rg_lru
from jaxlm.sharding import weight


@dataclasses.dataclass(frozen=True)
class RGLRUConfig(MixerConfig):
    """Griffin's recurrent block (De et al. 2024, arXiv:2402.19427): y = (rg_lru(conv(x in)) * gelu(x gate)) out.

    Layers of it alternate with local attention, two to one. The blocks are divided over the devices that divide heads.
    """

    Z: int  # units
    H: int  # blocks, whose gates see their own units only
    W: int = 4  # tokens that the convolution sees
    activation: str = "gelu_tanh"  # of the gate; a name of ops.activations
    chunk_size: int = CHUNK  # positions that are computed in parallel

    def __post_init__(self):
        check(self, Z=">= 1", H=">= 1", W=">= 2", chunk_size=">= 1")
        if self.Z % self.H:
            raise UserError(f"H={self.H} blocks must divide Z={self.Z} units")
        if self.activation not in ACTIVATIONS:
            raise unknown("activation", self.activation, ACTIVATIONS)

    def build(self, depth: int, name: str) -> nn.Module:
        return RGLRU(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Recurrent:
        """Zeros, float32 (B, W - 1, H, Z / H) and (B, H, Z / H), whatever the length and the dtype."""
        H, K = self.H, self.Z // self.H
        conv = zeros((B, self.W - 1, H, K), "batch", None, "heads", None)
        return Recurrent((conv, zeros((B, H, K), "batch", "heads", None)))

    def score_flops(self, T: int) -> float:
        """Of the convolution and the recurrence."""
        return 2 * self.W * self.Z + 4 * self.Z


class RGLRU(nn.Module):
    """x_BTD, context, past -> y_BTD, state: the last inputs of the convolution and h behind the last token.

    Where positions are divided over devices, each has the whole row: one state runs along it. A token at position 0 is
    the first of its text.
    """

    c: RGLRUConfig
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Recurrent | None = None) -> tuple[Array, Recurrent]:
        c, D = self.c, x_BTD.shape[-1]
        H, K = c.H, c.Z // c.H
        segments_BT = context.whole_segments_BT
        conv, state = (None, None) if past is None else past.value
        rows = lambda x: keep(sharding.constrain(x, "batch", None, "heads", None))[0]
        gate_BTHK = rows(split(self, "gate", x_BTD, H, K, bias=True))
        x_BTHK = rows(split(self, "x", x_BTD, H, K, bias=True))
        w_WHK = weight(self, "conv", (c.W, H, K), (None, "heads", None), init.fan_in((0,)))
        x_BTHK, conv = causal_conv(x_BTHK, w_WHK, weight(self, "conv_bias", (H, K), ("heads", None)), conv, segments_BT)
        input_BTHK, recurrent_BTHK = self._gate("input", x_BTHK), self._gate("recurrent", x_BTHK)
        lambda_HK = weight(self, "lambda", (H, K), ("heads", None), _remembering)
        first_BT = sharding.replicated(context.positions_BT, 1) == 0
        h_BTHK, state = rg_lru(
            x_BTHK, input_BTHK, recurrent_BTHK, lambda_HK, first_BT, state, segments_BT, c.chunk_size
        )
        y_BTHK = h_BTHK * ACTIVATIONS[c.activation](gate_BTHK)
        return merge(self, "out", y_BTHK, D, self.depth, bias=True), Recurrent((conv, state))

    def _gate(self, name: str, x_BTHK: Array) -> Array:
        """A product within each block, before its sigmoid, float32."""
        H, K = x_BTHK.shape[2:]
        w_HKJ = weight(self, name, (H, K, K), ("heads", None, None), init.fan_in((1,)), (1,))
        bias_HK = weight(self, f"{name}_bias", (H, K), ("heads", None))
        y_BTHK = jnp.einsum("bthk,hkj->bthj", x_BTHK, w_HKJ.astype(x_BTHK.dtype), preferred_element_type=jnp.float32)
        return y_BTHK + bias_HK[None, None]


def _remembering(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Lambda at which exp(-softplus) is between 0.9 and 0.999, uniform in its square."""
    square = jax.random.uniform(key, shape, dtype, 0.9**2, 0.999**2)
    return jnp.log(square**-0.5 - 1)
