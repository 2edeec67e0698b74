"""Multi-head latent attention: keys and values of all heads are made of one short vector, and only that is cached."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.nn import init
from jaxlm.nn.attention import mean_visible
from jaxlm.nn.context import Context
from jaxlm.nn.heads import dropout_key, keep, merge, split
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.norm import RMSNormConfig
from jaxlm.nn.rope import RopeConfig, text_length
from jaxlm.nn.state import KVSlots
from jaxlm.ops import masks
from jaxlm.ops.attention import attention
from jaxlm.ops.mla import latent_attention_with_past
from jaxlm.sharding import einsum, weight


@dataclasses.dataclass(frozen=True)
class MLAConfig(MixerConfig):
    """MLA (DeepSeek-V2, arXiv:2405.04434): with c = rms_norm(x W_c) of width L, head h has k = [c W_uk ; rotate(x W_r)]
    and v = c W_uv; the rotated part is one for all heads. Queries may be made of a short vector too."""

    H: int  # heads
    K: int  # width of a key that is made of the latent
    R: int  # width of the rotated key
    J: int  # width of a value
    L: int  # width of the latent
    query_L: int | None = None  # width of the queries' latent; None: queries are made of x
    rope: RopeConfig = RopeConfig(interleaved=True)
    scale: float | None = None  # of the scores; None: (K + R)^-0.5
    norm: RMSNormConfig = RMSNormConfig()  # of the latents
    bias: bool = False  # of the products that make the latents, and of the output projection
    dropout: float = 0.0  # of the attention weights
    implementation: str = "auto"  # see ops.attention.attention

    def __post_init__(self):
        check(self, **dict.fromkeys(("H", "K", "R", "J", "L", "query_L"), ">= 1"), dropout="[0, 1)")
        self.rope.width(self.R)

    def build(self, depth: int, name: str) -> nn.Module:
        return MLA(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> KVSlots:
        """Latents (B, S, L) and rotated keys (B, S, R) of an empty cache: L + R numbers a token."""
        where = sharding.out_sharding("batch", None, None)
        make = lambda width: jnp.zeros((B, length, width), dtype, out_sharding=where)
        return KVSlots((make(self.L), make(self.R)))

    def score_flops(self, T: int) -> float:
        """Forward FLOPs per token of scores and weighted values, over the mean number of visible positions."""
        return 2 * self.H * (self.K + self.R + self.J) * mean_visible(T)


class MLA(nn.Module):
    """x_BTD, context, past -> y_BTD, slots of c_BTL and r_BTR.

    Without a past, heads are expanded and attended to as any others. With one, queries are brought to the latent width
    instead (`ops.mla`), and the cache is read as it is.
    """

    c: MLAConfig
    depth: int

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: KVSlots | None = None) -> tuple[Array, KVSlots]:
        c, dtype, D = self.c, x_BTD.dtype, x_BTD.shape[-1]
        at_BT = context.positions_BT
        turn = lambda x_BTHK: c.rope.rotate(x_BTHK, at_BT, text_length(at_BT))
        if c.query_L is None:
            q_BTHK = split(self, "q", x_BTD, c.H, c.K + c.R)
        else:
            low_BTL = c.norm.build("q_norm")(self._down("q_down", x_BTD, c.query_L))
            q_BTHK = split(self, "q_up", low_BTL, c.H, c.K + c.R)
        q_BTHK, turned_BTHR = q_BTHK[..., : c.K], turn(q_BTHK[..., c.K :])
        c_BTL = c.norm.build("kv_norm")(self._down("kv_down", x_BTD, c.L))
        r_BTR = turn(self._down("k_rope", x_BTD, c.R)[:, :, None])[:, :, 0]
        heads, fan = (None, "heads", None), init.fan_in((0,))
        k_LHK = weight(self, "k_up", (c.L, c.H, c.K), heads, fan, (0,)).astype(dtype)
        v_LHJ = weight(self, "v_up", (c.L, c.H, c.J), heads, fan, (0,)).astype(dtype)
        scale = float((c.K + c.R) ** -0.5 if c.scale is None else c.scale)
        if past is None:
            shared_BTHR = jnp.broadcast_to(r_BTR[:, :, None], turned_BTHR.shape)
            shared_BTHR = sharding.constrain(shared_BTHR, *sharding.rows(x_BTD.shape[1])[:2], "heads", None)
            q_BTHK, k_BTHK, v_BTHJ = keep(
                jnp.concatenate([q_BTHK, turned_BTHR], -1),
                jnp.concatenate([einsum("btl,lhk->bthk", c_BTL, k_LHK), shared_BTHR], -1),
                einsum("btl,lhj->bthj", c_BTL, v_LHJ),
            )
            o_BTHJ = attention(
                q_BTHK,
                k_BTHK,
                v_BTHJ,
                context.segments_BT,
                context.positions_BT,
                scale=scale,
                dropout=c.dropout,
                key=dropout_key(self, c.dropout),
                implementation=c.implementation,
            )
        else:
            assert context.end is not None and context.start_B is not None, "a past needs its end and starts"
            now = context.positions_BT, context.segments_BT
            before = masks.cache_slots(past.value[0].shape[1], context.end, context.start_B)
            see = lambda keys: masks.visible(now[0], keys[0], now[1], keys[1])
            q_BTHL = jnp.einsum("bthk,lhk->bthl", q_BTHK, k_LHK)
            o_BTHL = latent_attention_with_past(
                q_BTHL, turned_BTHR, past.value, (c_BTL, r_BTR), see(before), see(now), scale
            )
            o_BTHJ = jnp.einsum("bthl,lhj->bthj", o_BTHL, v_LHJ)
        y_BTD = merge(self, "o", o_BTHJ, D, self.depth, c.bias)
        return y_BTD, KVSlots((c_BTL, r_BTR))

    def _down(self, name: str, x_BTD: Array, L: int) -> Array:
        w_DL = weight(self, name, (x_BTD.shape[-1], L), ("embed", None), init.fan_in((0,)), (0,))
        y_BTL = einsum("btd,dl->btl", x_BTD, w_DL.astype(x_BTD.dtype))
        if self.c.bias:
            y_BTL += weight(self, f"{name}_bias", (L,), (None,)).astype(y_BTL.dtype)[None, None]
        return y_BTL
