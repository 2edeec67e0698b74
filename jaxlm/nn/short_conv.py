"""LFM2's short convolution as a mixer."""

import dataclasses
from typing import Any

import flax.linen as nn

from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.nn import init
from jaxlm.nn.context import Context
from jaxlm.nn.heads import heads, merge
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.state import Recurrent, zeros
from jaxlm.ops.conv import causal_conv
from jaxlm.sharding import weight


@dataclasses.dataclass(frozen=True)
class ShortConvConfig(MixerConfig):
    """A gated short convolution (LFM2; Liquid AI 2025, arXiv:2511.23404): y = (c * conv(b * x)) out, where b, c and x
    are products with the input, and each of F channels sees its last W inputs."""

    F: int  # channels
    W: int = 3  # tokens that the convolution sees

    def __post_init__(self):
        check(self, F=">= 1", W=">= 2")

    def build(self, depth: int, name: str) -> nn.Module:
        return ShortConv(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Recurrent:
        """Zeros, float32: the last W - 1 inputs of the convolution, whatever the length and the dtype."""
        return Recurrent(zeros((B, self.W - 1, self.F, 1), "batch", None, "heads", None))

    def score_flops(self, T: int) -> float:
        return 2 * (self.W + 1) * self.F


class ShortConv(nn.Module):
    """x_BTD, context, past -> y_BTD, state: the last inputs of the convolution. Channels are divided as heads are."""

    c: ShortConvConfig
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Recurrent | None = None) -> tuple[Array, Recurrent]:
        c = self.c
        b_BTF1, c_BTF1, x_BTF1 = (heads(self, name, x_BTD, c.F, 1) for name in ("b", "c", "x"))
        w_WF1 = weight(self, "conv", (c.W, c.F, 1), (None, "heads", None), init.fan_in((0,)))
        before = None if past is None else past.value
        y_BTF1, state = causal_conv(b_BTF1 * x_BTF1, w_WF1, None, before, context.whole_segments_BT)
        return merge(self, "o", c_BTF1 * y_BTF1, x_BTD.shape[-1], self.depth), Recurrent(state)
