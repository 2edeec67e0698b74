"""Causal linear attention as a mixer: the module that owns q, k, v and o, and whose past is a sum."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.nn.context import Context
from jaxlm.nn.heads import merge, split, whole_rows
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.state import Recurrent
from jaxlm.ops.linear_attention import causal_linear_attention, elu_features


@dataclasses.dataclass(frozen=True)
class LinearAttentionConfig(MixerConfig):
    """H heads of linear attention with features elu + 1 (Katharopoulos et al. 2020, arXiv:2006.16236)."""

    H: int  # heads
    K: int  # head width

    def __post_init__(self):
        check(self, H=">= 1", K=">= 1")

    def build(self, depth: int, name: str) -> nn.Module:
        return LinearAttention(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Recurrent:
        """Sums over no token, float32 (B, H, K, K + 1), whatever the length and the dtype."""
        where = sharding.out_sharding("batch", "heads", None, None)
        return Recurrent(jnp.zeros((B, self.H, self.K, self.K + 1), jnp.float32, out_sharding=where))

    def score_flops(self, T: int) -> float:
        """Forward FLOPs per token of adding to the sums and of reading them."""
        return 4 * self.H * self.K * (self.K + 1)


class LinearAttention(nn.Module):
    """x_BTD, context, past -> y_BTD, state_BHZJ: the sums behind the last token, that take the place of the past.

    Where positions are divided over devices, each has the whole row of its heads: one sum runs along it.
    """

    c: LinearAttentionConfig
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Recurrent | None = None) -> tuple[Array, Recurrent]:
        c, before = self.c, None if past is None else past.value
        q_BTHK, k_BTHK, v_BTHK = (split(self, name, x_BTD, c.H, c.K) for name in "qkv")
        q_BTHK, k_BTHK, v_BTHK = whole_rows(q_BTHK, k_BTHK, v_BTHK)
        segments_BT = context.whole_segments_BT
        o_BTHK, state_BHZJ = causal_linear_attention(
            elu_features(q_BTHK), elu_features(k_BTHK), v_BTHK, segments_BT, before
        )
        return merge(self, "o", o_BTHK, x_BTD.shape[-1], self.depth), Recurrent(state_BHZJ)
