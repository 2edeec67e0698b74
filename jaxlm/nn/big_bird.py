"""BigBird's block-sparse self-attention: the module that owns q, k, v and o."""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import numpy as np

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn.context import Context
from jaxlm.nn.heads import merge, split
from jaxlm.nn.mixer import MixerConfig
from jaxlm.ops.attention import attention
from jaxlm.ops.sparse import Local, Pattern, block_sparse_attention

HEADS, PLACES = ("batch", None, "heads", None), ("batch", None)


@dataclasses.dataclass(frozen=True)
class BigBirdConfig(MixerConfig):
    """H heads that see, in blocks of C tokens, the first, the last, their own and its neighbours, and `random` others;
    the first and the last see all (Zaheer et al. 2020, arXiv:2007.14062).

    In place of random blocks the first one is seen, once more for each, as transformers computes it in evaluation: that
    is a bias of log(1 + random). Texts of at most (5 + 2 random) C tokens, padding counted, see all, as there. Blocks
    count from the beginning of the row: pad on the right. No weight of attention is dropped.
    """

    H: int  # heads
    K: int  # head width
    C: int = 64  # tokens a block
    random: int = 3
    bias: bool = True  # of q, k and v
    bias_out: bool = True

    causal = False

    def __post_init__(self):
        check(self, H=">= 1", K=">= 1", C=">= 1", random=">= 0")

    @property
    def whole(self) -> int:
        """Texts up to this length see all."""
        return (5 + 2 * self.random) * self.C

    def blocks(self, T: int) -> tuple[Pattern, np.ndarray]:
        """Which blocks meet in a text of T tokens, and what is added to the scores of each pair."""
        n = -(-T // self.C)
        near = Local(self.C, near=1, everywhere=1)(T).blocks
        sees = [set(row) | {n - 1} if i < n - 1 else set(range(n)) for i, row in enumerate(near)]
        pattern = Pattern(self.C, tuple(tuple(sorted(row)) for row in sees))
        row_P, column_P = pattern.pairs(T, causal=False)
        again_P = (column_P == 0) & (row_P > 0) & (row_P < n - 1)
        return pattern, np.where(again_P, math.log(1 + self.random), 0).astype(np.float32)

    def build(self, depth: int, name: str) -> nn.Module:
        return BigBird(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Any:
        raise UserError("BigBird's attention sees what follows, so it does not decode")

    def score_flops(self, T: int) -> float:
        seen = T if self.whole >= T else len(self.blocks(T)[1]) * self.C**2 / T
        return 4 * self.H * self.K * seen


class BigBird(nn.Module):
    """x_BTD, context, past (None) -> y_BTD, no state."""

    c: BigBirdConfig
    depth: int

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Any = None) -> tuple[Array, Any]:
        c, T = self.c, x_BTD.shape[1]
        q_BTHK, k_BTHK, v_BTHK = (split(self, name, x_BTD, c.H, c.K, c.bias) for name in "qkv")
        if c.whole >= T:
            o_BTHK = attention(q_BTHK, k_BTHK, v_BTHK, context.segments_BT, causal=False)
        else:
            pattern, bias_P = c.blocks(T)
            attend = functools.partial(block_sparse_attention, pattern=pattern, causal=False, bias_P=bias_P)
            with_segments = lambda q, k, v, segments_BT: attend(q, k, v, segments_BT=segments_BT)
            o_BTHK = sharding.shard_map(
                with_segments, [HEADS] * 3 + [PLACES], HEADS, q_BTHK, k_BTHK, v_BTHK, context.segments_BT
            )
        return merge(self, "o", o_BTHK, x_BTD.shape[-1], self.depth, c.bias_out), ()
