"""Causal block-sparse self-attention: the module that owns q, k, v and o."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn.context import Context
from jaxlm.nn.heads import merge, split, whole_rows
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.state import KVSlots
from jaxlm.ops import masks
from jaxlm.ops.attention import attention_with_past
from jaxlm.ops.sparse import Fixed, Local, Strided, block_sparse_attention, pattern_mask


@dataclasses.dataclass(frozen=True)
class SparseAttentionConfig(MixerConfig):
    """Block-sparse attention: H query heads over G key/value heads that see the blocks of a pattern (Child et al. 2019,
    arXiv:1904.10509).

    The pattern counts from a text's first token, in a row packed with texts from that of the first. Positions are the
    model's: none belong to the scores.
    """

    H: int  # query heads
    K: int  # head width
    pattern: Fixed | Strided | Local
    G: int | None = None  # key/value heads; None: as many as query heads

    def __post_init__(self):
        check(self, H=">= 1", K=">= 1", G=">= 1")
        if self.H % self.groups:
            raise UserError(f"sparse attention: G={self.G} key/value heads must divide H={self.H} query heads")
        if getattr(self.pattern, "random", 0):
            raise UserError(
                "sparse attention: random blocks change as a text grows, so they cannot be decoded: random=0"
            )

    @property
    def groups(self) -> int:
        return self.H if self.G is None else self.G

    def build(self, depth: int, name: str) -> nn.Module:
        return SparseAttention(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> KVSlots:
        """Keys and values (B, G, S, K) of an empty cache, a slot for each token."""
        where = sharding.out_sharding("batch", "heads", None, None)
        empty = lambda: jnp.zeros((B, self.groups, length, self.K), dtype, out_sharding=where)
        return KVSlots((empty(), empty()))

    def score_flops(self, T: int) -> float:
        """Forward FLOPs per token of scores and weighted values, over the mean number of visible positions."""
        row_P, column_P = self.pattern(T).pairs(T, causal=True)
        blocks = np.sum(np.where(row_P == column_P, 0.5, 1))  # the mask leaves half of a block on the diagonal
        return float(4 * self.H * self.K * blocks * self.pattern.C**2 / T)


class SparseAttention(nn.Module):
    """x_BTD, context, past -> y_BTD, slots of k_BGTK and v_BGTK. The past, slots of k_BGSK and v_BGSK, is only read.

    Where positions are divided over devices, each has the whole row of its heads: a pattern may ask for any block.
    """

    c: SparseAttentionConfig
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: KVSlots | None = None) -> tuple[Array, KVSlots]:
        c, heads = self.c, {"q": self.c.H, "k": self.c.groups, "v": self.c.groups}
        q_BTHK, k_BTGK, v_BTGK = whole_rows(*(split(self, name, x_BTD, n, c.K) for name, n in heads.items()))
        new = k_BTGK.swapaxes(1, 2), v_BTGK.swapaxes(1, 2)
        if past is None:
            o_BTHK = self._attend(q_BTHK, k_BTGK, v_BTGK, context.segments_BT)
        else:
            o_BTHK = self._attend_past(q_BTHK, *new, context, *past.value)
        return merge(self, "o", o_BTHK, x_BTD.shape[-1], self.depth), KVSlots(new)

    def _attend(self, q_BTHK: Array, k_BTGK: Array, v_BTGK: Array, segments_BT: Array | None) -> Array:
        pattern = self.c.pattern(q_BTHK.shape[1])
        if segments_BT is None:
            return block_sparse_attention(q_BTHK, k_BTGK, v_BTGK, pattern)
        segments_BT = sharding.replicated(segments_BT, 1)
        # Blocks count from the first token of the text: padding on the left is turned round to the right meanwhile.
        first_B = jnp.argmax(segments_BT > 0, -1)
        turn = jax.vmap(lambda x, by: jnp.roll(x, by, 0))
        q_BTHK, k_BTGK, v_BTGK, segments_BT = (turn(x, -first_B) for x in (q_BTHK, k_BTGK, v_BTGK, segments_BT))
        return turn(block_sparse_attention(q_BTHK, k_BTGK, v_BTGK, pattern, segments_BT), first_B)

    def _attend_past(self, q_BTHK, k_BGTK, v_BGTK, context, past_k_BGSK, past_v_BGSK) -> Array:
        assert context.end is not None and context.start_B is not None, "a past needs its end and starts"
        S = past_k_BGSK.shape[2]
        pattern = self.c.pattern(S + q_BTHK.shape[1])
        now = context.positions_BT, context.segments_BT
        before = masks.cache_slots(S, context.end, context.start_B)

        def see(keys):
            return masks.visible(now[0], keys[0], now[1], keys[1]) & pattern_mask(pattern, now[0], keys[0])

        return attention_with_past(q_BTHK, k_BGTK, v_BGTK, past_k_BGSK, past_v_BGSK, see(before), see(now))
