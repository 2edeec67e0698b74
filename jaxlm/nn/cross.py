"""Cross attention: queries from the tokens being computed, keys and values from another sequence, the memory."""

import dataclasses
from typing import Any

import flax.linen as nn

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn.context import Context
from jaxlm.nn.heads import dropout_key, keep, merge, split, whole_rows
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.state import Memory
from jaxlm.ops.cross import cross_attention


@dataclasses.dataclass(frozen=True)
class CrossAttentionConfig(MixerConfig):
    """Cross attention of H query heads to G key/value heads of a memory (Vaswani et al. 2017, arXiv:1706.03762,
    3.2.3)."""

    H: int  # query heads
    K: int  # head width
    G: int | None = None  # key/value heads; None: as many as query heads
    scale: float | None = None  # of scores; None: K^-0.5 (T5 has 1)
    bias: bool = False  # biases of q, k and v
    bias_k: bool = True  # that of k, where there are any (Whisper's keys have none)
    bias_out: bool = False  # bias of the output projection
    dropout: float = 0.0  # of the attention weights, where a "dropout" key is given to apply

    def __post_init__(self):
        check(self, H=">= 1", K=">= 1", G=">= 1", dropout="[0, 1)")
        if self.H % self.groups:
            raise UserError(f"cross attention: G={self.G} key/value heads must divide H={self.H} query heads")

    @property
    def groups(self) -> int:
        return self.H if self.G is None else self.G

    def build(self, depth: int, name: str) -> nn.Module:
        return CrossAttention(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Memory:
        """An empty memory: how long it will be, the first call tells."""
        return Memory()

    def score_flops(self, T: int) -> float:
        """Forward FLOPs per token of scores and weighted values, of a memory as long as the text.

        Keys and values are counted with the weights, as if each position of the memory were one of the text.
        """
        return 4 * self.H * self.K * T


class CrossAttention(nn.Module):
    """x_BTD, context, past -> y_BTD, (k_BGSK, v_BGSK) of `context.memory_BSD` and its mask, as a `Memory`.

    Decoding computes keys and values once: with a past these are read instead, and nothing is new. Where positions are
    divided over devices, each attends with its own queries to the whole memory.
    """

    c: CrossAttentionConfig
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Memory | None = None) -> tuple[Array, Memory]:
        c, dtype = self.c, x_BTD.dtype
        q_BTHK = split(self, "q", x_BTD, c.H, c.K, c.bias)
        state, segments_BT = Memory(), None
        if past is None or past.value is None:
            if context.memory_BSD is None:
                raise UserError("cross attention needs a memory, or the past that an earlier call made of it")
            S = context.memory_BSD.shape[1]
            biases = {"k": c.bias and c.bias_k, "v": c.bias}
            memory_BSD = sharding.constrain(context.memory_BSD.astype(dtype), *sharding.rows(S))
            k_BSGK, v_BSGK = whole_rows(
                *(split(self, name, memory_BSD, c.groups, c.K, bias) for name, bias in biases.items())
            )
            mask_BS = None if context.memory_mask_BS is None else sharding.replicated(context.memory_mask_BS, 1)
            state = Memory((k_BSGK.swapaxes(1, 2), v_BSGK.swapaxes(1, 2), mask_BS))
            if context.memory_segments_BS is not None:
                mask_BS, segments_BT = sharding.replicated(context.memory_segments_BS, 1), context.segments_BT
        else:
            k_BSGK, v_BSGK = (x_BGSK.swapaxes(1, 2).astype(dtype) for x_BGSK in past.value[:2])
            mask_BS = past.value[2]
        q_BTHK, k_BSGK, v_BSGK = keep(q_BTHK, k_BSGK, v_BSGK)
        o_BTHK = cross_attention(
            q_BTHK,
            k_BSGK,
            v_BSGK,
            mask_BS,
            segments_BT,
            scale=c.scale,
            dropout=c.dropout,
            key=dropout_key(self, c.dropout),
        )
        return merge(self, "o", o_BTHK, x_BTD.shape[-1], self.depth, c.bias_out), state
