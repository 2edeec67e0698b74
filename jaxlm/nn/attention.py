"""Multi-head, grouped-query and multi-query self-attention: the module that owns q, k, v and o."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.errors import UserError
from jaxlm.nn import init
from jaxlm.nn.context import Context
from jaxlm.ops import masks
from jaxlm.ops.attention import attention, attention_with_past
from jaxlm.ops.positions import rotate
from jaxlm.sharding import einsum, weight


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary positions over the whole head width, halves paired."""

    base: float = 10_000.0


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """Self-attention with H query heads over G key/value heads (G = H multi-head, 1 multi-query, between: grouped)."""

    H: int  # query heads
    K: int  # head width
    G: int | None = None  # key/value heads; None: as many as query heads
    rope: RopeConfig | None = RopeConfig()  # None: no rotary positions
    window: int | None = None  # how many positions a query sees, itself included; None: all before it
    bias: bool = False  # biases of q, k and v
    bias_out: bool = False  # bias of the output projection
    implementation: str = "auto"  # see ops.attention.attention

    def __post_init__(self):
        if self.H < 1 or self.K < 1 or self.groups < 1 or self.H % self.groups:
            raise UserError(f"attention: G={self.G} key/value heads must divide H={self.H} query heads")
        if self.rope is not None and self.K % 2:
            raise UserError(f"attention: rotary positions need an even head width, got K={self.K}")
        if self.window is not None and self.window < 1:
            raise UserError(f"attention: window={self.window} must be at least 1 (the query's own position)")

    @property
    def groups(self) -> int:
        return self.H if self.G is None else self.G

    def build(self, depth: int, name: str) -> nn.Module:
        return Attention(self, depth, name=name)

    def state_slots(self, length: int) -> int:
        """Cache slots that decoding a text of `length` tokens needs."""
        return length if self.window is None else min(length, self.window)

    def empty_state(self, B: int, length: int, dtype: Any) -> tuple[Array, Array]:
        """Keys and values (B, G, S, K) of an empty cache."""
        shape = (B, self.groups, self.state_slots(length), self.K)
        where = sharding.creation("batch", "heads", None, None)
        return jnp.zeros(shape, dtype, out_sharding=where), jnp.zeros(shape, dtype, out_sharding=where)

    def score_flops(self, T: int) -> float:
        """Forward FLOPs per token of scores and weighted values, over the mean number of visible positions."""
        W = T if self.window is None else min(self.window, T)
        return 4 * self.H * self.K * (W - W * W / (2 * T))


class Attention(nn.Module):
    """x_BTD, context, past -> y_BTD, (k_BGTK, v_BGTK).

    The past (k_BGSK, v_BGSK) is read and never written: the new keys and values are outputs, and who called writes
    them where they belong.
    """

    c: AttentionConfig
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Any = None) -> tuple[Array, tuple[Array, Array]]:
        c, D, dtype = self.c, x_BTD.shape[-1], x_BTD.dtype

        def project(name: str, heads: int) -> Array:
            w = weight(self, name, (D, heads, c.K), ("embed", "heads", None), init.fan_in((0,)), (0,))
            y_BTHK = einsum("btd,dhk->bthk", x_BTD, w.astype(dtype))
            if c.bias:
                b_HK = weight(self, f"{name}_bias", (heads, c.K), ("heads", None))
                y_BTHK += b_HK.astype(dtype)[None, None]
            return y_BTHK

        q_BTHK, k_BTGK, v_BTGK = project("q", c.H), project("k", c.groups), project("v", c.groups)
        if c.rope is not None:
            q_BTHK = rotate(q_BTHK, context.positions_BT, c.rope.base)
            k_BTGK = rotate(k_BTGK, context.positions_BT, c.rope.base)
        q_BTHK, k_BTGK, v_BTGK = (checkpoint_name(a, "qkv") for a in (q_BTHK, k_BTGK, v_BTGK))
        state = k_BTGK.swapaxes(1, 2), v_BTGK.swapaxes(1, 2)
        if past is None:
            o_BTHK = attention(
                q_BTHK, k_BTGK, v_BTGK, context.segments_BT, window=c.window, implementation=c.implementation
            )
        else:
            o_BTHK = self._attend_past(q_BTHK, *state, context, *past)
        w_HKD = weight(self, "o", (c.H, c.K, D), ("heads", None, "embed"), init.residual((0, 1), self.depth), (0, 1))
        y_BTD = einsum("bthk,hkd->btd", o_BTHK, w_HKD.astype(dtype), out=sharding.stream(x_BTD.shape[1]))
        if c.bias_out:
            y_BTD += weight(self, "o_bias", (D,), (None,)).astype(dtype)[None, None]
        return y_BTD, state

    def _attend_past(self, q_BTHK, k_BGTK, v_BGTK, context, past_k_BGSK, past_v_BGSK) -> Array:
        assert context.end is not None and context.start_B is not None, "a past needs its end and starts"
        now = context.positions_BT, context.segments_BT
        past = masks.cache_slots(past_k_BGSK.shape[2], context.end, context.start_B)
        see = lambda keys: masks.visible(now[0], keys[0], now[1], keys[1], window=self.c.window)
        return attention_with_past(q_BTHK, k_BGTK, v_BGTK, past_k_BGSK, past_v_BGSK, see(past), see(now))
