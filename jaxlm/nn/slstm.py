"""sLSTM as a mixer: the module that owns the gates' weights, block by block, and norms what comes out."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.nn import init
from jaxlm.nn.context import Context
from jaxlm.nn.heads import whole_heads
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.mlstm import normed
from jaxlm.nn.state import Recurrent, zeros
from jaxlm.ops.conv import causal_conv
from jaxlm.ops.slstm import slstm
from jaxlm.sharding import weight


@dataclasses.dataclass(frozen=True)
class SLSTMConfig(MixerConfig):
    """The sLSTM of the xLSTM paper (Beck et al. 2024, arXiv:2405.04517): y = norm(slstm(i, f, z, o)), whose gates i and
    f see silu(conv(x)), z and o see x, each head its own K channels of the H K of the model.

    Its layer has a gated feed-forward (post up-projection). Heads are divided over the devices that divide those of
    attention.
    """

    H: int  # heads, whose units see each other
    K: int  # width of each; the model's is H K
    W: int = 4  # tokens that the convolution sees
    eps: float = 1e-5  # of the norm of each head

    def __post_init__(self):
        check(self, H=">= 1", K=">= 1", W=">= 2", eps="> 0")

    def build(self, depth: int, name: str) -> nn.Module:
        return SLSTM(self, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Recurrent:
        """Zeros, float32: the last inputs of the convolution and four arrays (B, H, K), whatever the length and the
        dtype."""
        states = tuple(zeros((B, self.H, self.K), "batch", "heads", None) for _ in range(4))
        return Recurrent((zeros((B, self.W - 1, self.H, self.K), "batch", None, "heads", None), states))

    def score_flops(self, T: int) -> float:
        """Of the convolution: all other products are with weights."""
        return 2 * self.W * self.H * self.K


class SLSTM(nn.Module):
    """x_BTD, context, past -> y_BTD, state: the last inputs of the convolution, and (h, c, n, m) behind the last token.

    Where positions are divided over devices, each has the whole row: one state runs along it.
    """

    c: SLSTMConfig

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Recurrent | None = None) -> tuple[Array, Recurrent]:
        c, (B, T, D), dtype, segments_BT = self.c, x_BTD.shape, x_BTD.dtype, context.whole_segments_BT
        conv, state = (None, None) if past is None else past.value
        x_BTHK = whole_heads(sharding.constrain(x_BTD, "batch", None, None).reshape(B, T, c.H, c.K))
        w_WHK = weight(self, "conv", (c.W, c.H, c.K), (None, "heads", None), init.fan_in((0,)))
        bias_HK = weight(self, "conv_bias", (c.H, c.K), ("heads", None))
        c_BTHK, conv = causal_conv(x_BTHK, w_WHK, bias_HK, conv, segments_BT)
        w_4HKK = weight(self, "x", (4, c.H, c.K, c.K), (None, "heads", None, None), init.fan_in((2,)), (2,))
        inputs = (jax.nn.silu(c_BTHK), x_BTHK)
        pair = lambda x, w_2HKK: jnp.einsum("bthk,ghkj->btghj", x, w_2HKK.astype(dtype))
        x_BT4HK = jnp.concatenate([pair(inputs[0], w_4HKK[:2]), pair(inputs[1], w_4HKK[2:])], 2)
        bias_4HK = weight(self, "bias", (4, c.H, c.K), (None, "heads", None), _biases)
        x_BT4HK += bias_4HK.astype(dtype)[None, None]
        w_HK4K = weight(self, "h", (c.H, c.K, 4, c.K), ("heads", None, None, None), inputs=(1,)).astype(dtype)
        h_BTHK, state = slstm(x_BT4HK, w_HK4K, state, segments_BT)
        h_BTHK = sharding.constrain(normed(self, h_BTHK, c.eps), "batch", None, None, None)
        return sharding.constrain(h_BTHK.reshape(B, T, D), *sharding.stream(T)), Recurrent((conv, state))


def _biases(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """(4, H, K): of forget gates from 5 to -7 within each head, as the paper's middle layer has them; else zero."""
    place_K = jnp.linspace(0, 1, shape[-1], dtype=dtype)
    return jnp.zeros(shape, dtype).at[1].set((5 - 12 * place_K**0.95)[None])
