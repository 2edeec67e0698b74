"""Cross attention: queries from one sequence, keys and values from another, the memory."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn.heads import merge, split, whole_rows
from jaxlm.nn.state import Memory
from jaxlm.ops.attention import reference_attention


@dataclasses.dataclass(frozen=True)
class CrossAttentionConfig:
    """Attention of H query heads to G key/value heads of a memory (Vaswani et al. 2017, arXiv:1706.03762, 3.2.3)."""

    H: int  # query heads
    K: int  # head width
    G: int | None = None  # key/value heads; None: as many as query heads
    scale: float | None = None  # of scores; None: K^-0.5 (T5 has 1)
    bias: bool = False  # biases of q, k and v
    bias_out: bool = False  # bias of the output projection

    def __post_init__(self):
        check(self, H=">= 1", K=">= 1", G=">= 1")
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


class CrossAttention(nn.Module):
    """x_BTD, memory_BSD, mask_BS, past -> y_BTD, state.

    The memory may be of another width than x; `mask_BS` is False on its padding. The state is the memory's keys and
    values (B, S, G, K) and its mask: decoding computes them once, and gives them as the past instead of the memory with
    every token. Then nothing is new and the state that is returned is empty, as it is before a text begins.
    """

    c: CrossAttentionConfig
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(
        self, x_BTD: Array, memory_BSD: Array | None = None, mask_BS: Array | None = None, past: Memory | None = None
    ) -> tuple[Array, Memory]:
        c, dtype = self.c, x_BTD.dtype
        q_BTHK = split(self, "q", x_BTD, c.H, c.K, c.bias)
        state = Memory()
        if past is None or past.value is None:
            if memory_BSD is None:
                raise UserError("cross attention needs a memory, or the state that an earlier call made of it")
            memory_BSD = memory_BSD.astype(dtype)
            k_BSGK, v_BSGK = whole_rows(*(split(self, name, memory_BSD, c.groups, c.K, c.bias) for name in "kv"))
            past = state = Memory((k_BSGK, v_BSGK, None if mask_BS is None else sharding.whole(mask_BS, 1)))
        k_BSGK, v_BSGK, mask_BS = past.value
        mask_BTS = jnp.ones((1, 1, k_BSGK.shape[1]), bool) if mask_BS is None else mask_BS[:, None]
        scale = float(c.K**-0.5 if c.scale is None else c.scale)
        o_BTHK = reference_attention(q_BTHK, k_BSGK.astype(dtype), v_BSGK.astype(dtype), mask_BTS, scale)
        return merge(self, "o", o_BTHK, x_BTD.shape[-1], self.depth, c.bias_out), state
