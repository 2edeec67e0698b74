"""Self-attention within a window and with some tokens that see all: the module that owns both kinds of q, k and v."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn.context import Context
from jaxlm.nn.heads import merge, split
from jaxlm.nn.mixer import MixerConfig
from jaxlm.ops import local_global

ROWS, HEADS, PLACES = ("batch", None, None), ("batch", None, "heads", None), ("batch", None)


@dataclasses.dataclass(frozen=True)
class LongformerConfig(MixerConfig):
    """H heads that see the tokens near them and the global ones; these see all, by q, k and v of their own (Longformer;
    Beltagy et al. 2020, arXiv:2004.05150). Which are global is in the context. No weight of attention is dropped."""

    H: int  # heads
    K: int  # head width
    reach: int  # places to each side that a token sees; the paper's window w is twice that
    bias: bool = True  # of q, k and v
    bias_out: bool = True

    causal = False

    def __post_init__(self):
        check(self, H=">= 1", K=">= 1", reach=">= 1")

    def build(self, depth: int, name: str) -> nn.Module:
        return Longformer(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Any:
        raise UserError("Longformer's attention sees what follows, so it does not decode")

    def score_flops(self, T: int) -> float:
        """Of the window alone: how many tokens are global is no part of the model."""
        reach = min(self.reach, T - 1)
        return 4 * self.H * self.K * (2 * reach + 1 - reach * (reach + 1) / T)  # less at both ends of the text


class Longformer(nn.Module):
    """x_BTD, context, past (None) -> y_BTD, no state."""

    c: LongformerConfig
    depth: int

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Any = None) -> tuple[Array, Any]:
        c, at_BA, segments_BT = self.c, context.global_BA, context.segments_BT
        project = lambda name, x: split(self, name, x, c.H, c.K, c.bias)
        attend = functools.partial(local_global.local_global_attention, reach=c.reach)
        qkv = tuple(project(name, x_BTD) for name in "qkv")
        o_BTHK = sharding.shard_map(attend, [HEADS] * 3 + [PLACES] * 2, HEADS, *qkv, segments_BT, at_BA)
        # Without global tokens too these weights are there, and nothing is computed of them.
        g_x_BAD = x_BTD
        if at_BA is not None:
            g_x_BAD = sharding.shard_map(local_global.take, [ROWS, PLACES], ROWS, x_BTD, at_BA)
        g_qkv = project("q_global", g_x_BAD), project("k_global", x_BTD), project("v_global", x_BTD)
        if at_BA is not None:
            ins = [HEADS] * 4 + [PLACES] * 2
            o_BTHK = sharding.shard_map(_see_all, ins, HEADS, o_BTHK, *g_qkv, at_BA, segments_BT)
        return merge(self, "o", o_BTHK, x_BTD.shape[-1], self.depth, c.bias_out), ()


def _see_all(
    o_BTHK: Array, q_BAHK: Array, k_BTHK: Array, v_BTHK: Array, at_BA: Array, segments_BT: Array | None
) -> Array:
    """What the heads gathered, with what the global tokens gather of all in their place."""
    segments_BT = jnp.ones(k_BTHK.shape[:2], jnp.int32) if segments_BT is None else segments_BT
    mask_BAT = local_global.take(segments_BT, at_BA)[:, :, None] == segments_BT[:, None]
    g_o_BAHK = local_global.masked_attention(q_BAHK, k_BTHK, v_BTHK, mask_BAT, q_BAHK.shape[-1] ** -0.5)
    return local_global.put(o_BTHK, at_BA, g_o_BAHK)
