"""DeltaNet, Gated DeltaNet and Kimi Delta Attention as a mixer (`ops.delta`)."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn import init
from jaxlm.nn.context import Context
from jaxlm.nn.gated_linear import MatrixConfig, gated, into_heads, low_rank
from jaxlm.nn.heads import heads, merge, whole_heads
from jaxlm.nn.state import Recurrent, zeros
from jaxlm.ops.conv import causal_conv
from jaxlm.ops.delta import delta_rule
from jaxlm.ops.norms import rms_norm
from jaxlm.sharding import weight


@dataclasses.dataclass(frozen=True)
class DeltaNetConfig(MatrixConfig):
    """DeltaNet (Yang et al. 2024, arXiv:2406.06484): q, k and v through convolutions and silu, q and k of length one,
    the delta rule at the rate sigmoid(x W), y = norm(S^T q) out.

    With `decay` "head" it is Gated DeltaNet (Yang et al. 2024, arXiv:2412.06464): a head decays by
    exp(-exp(a) softplus(x W + b)), and what it gives is gated by silu(x gate). With "channel" each channel of a key
    does, from W of low rank, as in Kimi Delta Attention (2025, arXiv:2510.26692). With `negative` the rate goes up to
    2, so that a key may be turned round: what is needed to track a state (Grazzi et al. 2024, arXiv:2411.12537).
    """

    W: int = 4  # tokens that the convolutions see
    decay: Literal["head", "channel"] | None = None
    L: int = 16  # width through which the decay of channels comes
    negative: bool = False
    G: int | None = None  # heads of q and k, each of which serves H / G of v (Qwen3-Next); None: H

    def __post_init__(self):
        super().__post_init__()
        check(self, W=">= 2", L=">= 1", G=">= 1")
        if self.H % self.groups:
            raise UserError(f"G={self.G} heads of keys must divide H={self.H} heads of values")

    @property
    def groups(self) -> int:
        return self.G or self.H

    def build(self, depth: int, name: str) -> nn.Module:
        return DeltaNet(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Recurrent:
        """Zeros, float32: the last inputs of the convolutions, and (B, H, K, J), whatever the length and the dtype."""
        conv = lambda H, K: zeros((B, self.W - 1, H, K), "batch", None, "heads", None)
        convs = conv(self.groups, self.K), conv(self.groups, self.K), conv(self.H, self.values)
        return Recurrent((convs, super().init_cache(B, length, dtype).value))

    def score_flops(self, T: int) -> float:
        """Of the convolutions too, and of a chunk's triangular system."""
        C, J = min(self.chunk_size, T), self.values
        return super().score_flops(T) + 2 * self.H * (self.W * (2 * self.K + J) + C * (self.K + J) + self.K * J)


class DeltaNet(nn.Module):
    """x_BTD, context, past -> y_BTD, state: the last inputs of the convolutions and the states behind the last token.

    Where positions are divided over devices, each has the whole row: one state runs along it.
    """

    c: DeltaNetConfig
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Recurrent | None = None) -> tuple[Array, Recurrent]:
        c, segments_BT = self.c, context.whole_segments_BT
        convs, state = ((None, None, None), None) if past is None else past.value
        widths = {"q": (c.groups, c.K), "k": (c.groups, c.K), "v": (c.H, c.values)}
        found = [self._conv(name, *at, x_BTD, conv, segments_BT) for (name, at), conv in zip(widths.items(), convs)]
        q_BTHK, k_BTHK, v_BTHJ = (x for x, _ in found)
        rate_BTH = jax.nn.sigmoid(self._of_heads("rate", x_BTD)) * (1 + c.negative)
        q_BTHK, k_BTHK = self._serve(_unit(q_BTHK) * c.K**-0.5), self._serve(_unit(k_BTHK))
        y_BTHJ, state = delta_rule(
            q_BTHK, k_BTHK, v_BTHJ, rate_BTH, self._decay(x_BTD), state, segments_BT, c.chunk_size
        )
        scale_J = weight(self, "norm", (c.values,), (None,), nn.initializers.ones_init())
        y_BTHJ = rms_norm(y_BTHJ, scale_J, c.eps)
        y_BTHJ = y_BTHJ if c.decay is None else gated(self, y_BTHJ, x_BTD)
        y_BTD = merge(self, "o", y_BTHJ, x_BTD.shape[-1], self.depth)
        return y_BTD, Recurrent((tuple(conv for _, conv in found), state))

    def _decay(self, x_BTD: Array) -> Array | None:
        c = self.c
        if c.decay is None:
            return None
        if c.decay == "head":
            step_BTHK = self._of_heads("decay", x_BTD)[..., None]
            step_BTHK += weight(self, "decay_bias", (c.H, 1), ("heads", None), init.step_size)[None, None]
        else:
            step_BTHK = low_rank(self, "decay", x_BTD, c.L, c.H, c.K, init.step_size)
        rate_H = jnp.exp(weight(self, "a_log", (c.H,), ("heads",), init.rates))
        return -rate_H[None, None, :, None] * jax.nn.softplus(step_BTHK)

    def _of_heads(self, name: str, x_BTD: Array) -> Array:
        """One number a head, x_BTH, float32; of grouped heads by a weight (D, G, H / G)."""
        c = self.c
        if c.G is None:
            return into_heads(self, name, x_BTD)
        y_BTGR = heads(self, name, x_BTD, c.G, c.H // c.G).astype(jnp.float32)
        y_BTH = sharding.replicated(y_BTGR, 2).reshape(*y_BTGR.shape[:2], c.H)
        return sharding.constrain(y_BTH, "batch", None, "heads")

    def _serve(self, x_BTGK: Array) -> Array:
        """Queries or keys of grouped heads, one for each head of values."""
        if self.c.G is None:
            return x_BTGK
        return whole_heads(jnp.repeat(sharding.replicated(x_BTGK, 2), self.c.H // self.c.G, 2))

    def _conv(self, name: str, H: int, K: int, x_BTD: Array, past: Array | None, segments_BT: Array | None) -> Any:
        """silu of the convolution."""
        w_WHK = weight(self, f"conv_{name}", (self.c.W, H, K), (None, "heads", None), init.fan_in((0,)))
        y_BTHK, past = causal_conv(heads(self, name, x_BTD, H, K), w_WHK, None, past, segments_BT)
        return jax.nn.silu(y_BTHK), past


def _unit(x_BTHK: Array) -> Array:
    """Of length one."""
    x = x_BTHK.astype(jnp.float32)
    return (x * jax.lax.rsqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + 1e-6)).astype(x_BTHK.dtype)
