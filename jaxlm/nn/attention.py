"""Multi-head, grouped-query and multi-query self-attention: the module that owns q, k, v and o."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn.bias import BiasConfig, SharedBucketsConfig
from jaxlm.nn.context import Context
from jaxlm.nn.heads import dropout_key, keep, merge, split
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.norm import NormConfig, RMSNormConfig
from jaxlm.nn.rope import RopeConfig, text_length
from jaxlm.nn.state import Int8KVSlots, KVSlots
from jaxlm.ops import masks
from jaxlm.ops.attention import attention, attention_with_past
from jaxlm.ops.positions import temperature
from jaxlm.ops.relative import distances
from jaxlm.sharding import weight


@dataclasses.dataclass(frozen=True)
class QKNormConfig:
    """QK-norm: a norm of queries and of keys (Henry et al. 2020, arXiv:2010.04245)."""

    norm: NormConfig
    per_head: bool = False  # every head has a scale of its own
    joint: bool = False  # all heads are normed as one vector
    after_rope: bool = False


@dataclasses.dataclass(frozen=True)
class TemperatureConfig:
    """Temperature of attention: queries grow with their position, see `ops.positions.temperature`."""

    scale: float = 0.1
    step: float = 8192.0
    first: int = 1  # the number of a text's first position

    def __post_init__(self):
        check(self, step="> 0", first=">= 0")


@dataclasses.dataclass(frozen=True)
class AttentionConfig(MixerConfig):
    """Multi-head self-attention, H query heads over G key/value heads (G = H multi-head, 1 multi-query, between:
    grouped query)."""

    H: int  # query heads
    K: int  # head width
    G: int | None = None  # key/value heads; None: as many as query heads
    rope: RopeConfig | None = RopeConfig()  # None: no rotary positions
    position_bias: BiasConfig | None = None  # added to the scores by distance
    causal: bool = True  # no query sees a later key
    window: int | None = None  # how many positions a query sees, itself included; None: all before it
    chunk: int | None = None  # a query sees its own chunk of so many positions only
    scale: float | None = None  # of the scores; None: K^-0.5
    scale_by_layer: bool = False  # scores are divided by the layer's number, counted from 1
    softcap: float | None = None  # scores s become c tanh(s / c) (Gemma 2, arXiv:2408.00118)
    sinks: bool = False  # a learned logit per query head that takes attention and gives nothing
    clip_qkv: float | None = None  # queries, keys and values are clipped to +-clip_qkv
    qk_norm: QKNormConfig | None = None
    attn_temperature: TemperatureConfig | None = None
    bias: bool = False  # biases of q, k and v
    bias_k: bool = True  # that of k, where there are any (Whisper's keys have none)
    bias_out: bool = False  # bias of the output projection
    dropout: float = 0.0  # of the attention weights, where a "dropout" key is given to apply
    implementation: str = "auto"  # see ops.attention.attention
    cache: Literal["", "int8"] = ""  # what keys and values of earlier tokens are kept in; "": as they are computed
    J: int | None = None  # width of a value; None: K
    gate: Literal["head", "channel"] | None = None  # what heads gather, times sigmoid(x W), a gate for each
    norm_out: RMSNormConfig | None = None  # of what all heads gathered, as one vector
    scale_out: float = 1.0  # of what heads gather

    def __post_init__(self):
        counts = dict.fromkeys(("H", "K", "G", "window", "chunk", "J"), ">= 1")
        check(self, **counts, softcap="> 0", clip_qkv="> 0", dropout="[0, 1)")
        if self.H % self.groups:
            raise UserError(f"attention: G={self.G} key/value heads must divide H={self.H} query heads")
        if self.rope is not None:
            self.rope.width(self.K)

    @property
    def groups(self) -> int:
        return self.H if self.G is None else self.G

    @property
    def values(self) -> int:
        return self.J or self.K

    def build(self, depth: int, name: str) -> nn.Module:
        return Attention(self, depth, name=name)

    def state_slots(self, length: int) -> int:
        """Cache slots that decoding a text of `length` tokens needs."""
        return min(length, self.window or length, self.chunk or length)

    def init_cache(self, B: int, length: int, dtype: Any) -> KVSlots:
        """Keys and values (B, G, S, K) of an empty cache; in int8 they have scales (B, G, S, 1)."""
        S = self.state_slots(length)
        where = sharding.out_sharding("batch", "heads", None, None)
        empty = lambda K, dtype: jnp.zeros((B, self.groups, S, K), dtype, out_sharding=where)
        if self.cache == "int8":
            small = lambda K: (empty(K, jnp.int8), empty(1, jnp.float32))
            return Int8KVSlots((small(self.K), small(self.values)), ring=length > S)
        return KVSlots((empty(self.K, dtype), empty(self.values, dtype)), ring=length > S)

    def score_flops(self, T: int) -> float:
        """Forward FLOPs per token of scores and weighted values, over the mean number of visible positions."""
        return 2 * self.H * (self.K + self.values) * mean_visible(T, self.causal, self.window, self.chunk)


def mean_visible(T: int, causal: bool = True, window: int | None = None, chunk: int | None = None) -> float:
    """Positions that a query of a text of T tokens sees on average, half of its own counted."""
    C = min(T, chunk or T)
    W = min(C, window or C)
    return (1 if causal else 2) * (W - W * W / (2 * C))


class Attention(nn.Module):
    """x_BTD, context, past -> y_BTD, slots of k_BGTK and v_BGTK.

    The past, slots of k_BGSK and v_BGSK, is read and never written: the new keys and values are outputs, and who called
    writes them where they belong.
    """

    c: AttentionConfig
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: KVSlots | None = None) -> tuple[Array, KVSlots]:
        c, at_BT = self.c, context.positions_BT
        heads = {"q": (c.H, c.K), "k": (c.groups, c.K), "v": (c.groups, c.values)}
        q_BTHK, k_BTGK, v_BTGK = (self._project(name, x_BTD, *shape) for name, shape in heads.items())
        q_BTHK, k_BTGK = self._norm(q_BTHK, k_BTGK, after_rope=False)
        if c.rope is not None:
            q_BTHK, k_BTGK = (c.rope.rotate(x, at_BT, text_length(at_BT)) for x in (q_BTHK, k_BTGK))
        q_BTHK, k_BTGK = self._norm(q_BTHK, k_BTGK, after_rope=True)
        q_BTHK, k_BTGK, v_BTGK = keep(self._sharpen(q_BTHK, context), k_BTGK, v_BTGK)
        alone = past is None and context.prefix_N2GnK is None
        attend = self._attend if alone else functools.partial(self._attend_past, past)
        o_BTHK = self._combine(attend(q_BTHK, k_BTGK, v_BTGK, context), context)
        if c.scale_out != 1:
            o_BTHK *= jnp.asarray(c.scale_out, o_BTHK.dtype)
        if c.gate is not None:
            gate = split(self, "gate", x_BTD, c.H, 1 if c.gate == "head" else c.values, c.bias)
            o_BTHK *= jax.nn.sigmoid(gate)
        if c.norm_out is not None:
            o_BTHK = c.norm_out.build("norm_out")(o_BTHK, joint=True)
        y_BTD = merge(self, "o", o_BTHK, x_BTD.shape[-1], self.depth, c.bias_out)
        return y_BTD, KVSlots((k_BTGK.swapaxes(1, 2), v_BTGK.swapaxes(1, 2)))

    def _project(self, name: str, x_BTD: Array, H: int, K: int) -> Array:
        c = self.c
        y_BTHK = split(self, name, x_BTD, H, K, c.bias and (c.bias_k or name != "k"))
        return y_BTHK if c.clip_qkv is None else jnp.clip(y_BTHK, -c.clip_qkv, c.clip_qkv)

    def _norm(self, q_BTHK: Array, k_BTGK: Array, after_rope: bool) -> tuple[Array, Array]:
        """Queries and keys, normed if this is the place for it."""
        c = self.c.qk_norm
        if c is None or c.after_rope != after_rope:
            return q_BTHK, k_BTGK
        normed = lambda name, x: c.norm.build(name)(x, c.per_head, c.joint)
        return normed("q_norm", q_BTHK), normed("k_norm", k_BTGK)

    def _sharpen(self, q_BTHK: Array, context: Context) -> Array:
        """Queries times what their position and the layer's number ask for."""
        c = self.c
        if c.attn_temperature is not None:
            t = c.attn_temperature
            factor_BT = temperature(context.positions_BT, t.scale, t.step, t.first)
            q_BTHK *= factor_BT[:, :, None, None].astype(q_BTHK.dtype)
        return q_BTHK / jnp.asarray(context.layer + 1, q_BTHK.dtype) if c.scale_by_layer else q_BTHK

    def _attend(self, q_BTHK: Array, k_BTGK: Array, v_BTGK: Array, context: Context) -> Array:
        """To the tokens of this call."""
        c, T, bias = self.c, q_BTHK.shape[1], self._bias(context)
        return attention(
            q_BTHK,
            *self._read(k_BTGK, v_BTGK, 2),
            context.segments_BT,
            context.positions_BT,
            **self._limits(),
            **self._scoring(),
            bias_HZ=None if bias is None else bias(distances(T)),
            dropout=c.dropout,
            key=dropout_key(self, c.dropout),
            implementation=c.implementation,
        )

    def _attend_past(
        self, past: KVSlots | None, q_BTHK: Array, k_BTGK: Array, v_BTGK: Array, context: Context
    ) -> Array:
        """To the tokens of this call and those before them: virtual ones, and those in the cache."""
        at_BT, of_BT, bias = context.positions_BT, context.segments_BT, self._bias(context)
        parts = []
        if context.prefix_N2GnK is not None:
            parts.append(self._virtual(context, len(q_BTHK), q_BTHK.dtype))
        if past is not None:
            parts.append(self._cached(past, context, parts[0][2].shape[1] if parts else 0, q_BTHK.dtype))
        k_BGSK, v_BGSK, at_BS, mask_BTS = parts[0] if len(parts) == 1 else _joined(*parts)
        by_distance = lambda key_BS: (
            None if bias is None else bias(at_BT[:, :, None] - key_BS[:, None]).swapaxes(0, 1)  # (B, H, T, S)
        )
        return attention_with_past(
            q_BTHK,
            *self._read(k_BTGK.swapaxes(1, 2), v_BTGK.swapaxes(1, 2), 1),
            k_BGSK,
            v_BGSK,
            mask_BTS,
            masks.visible(at_BT, at_BT, of_BT, of_BT, **self._limits()),
            bias_BHTS=by_distance(at_BS),
            bias_BHTT=by_distance(at_BT),
            **self._scoring(),
        )

    def _cached(self, past: KVSlots, context: Context, n: int, dtype: Any) -> tuple[Array, ...]:
        """Keys, values, positions (behind n others) and visibility of a cache's slots."""
        assert context.end is not None and context.start_B is not None, "a past needs its end and starts"
        k_BGSK, v_BGSK = past.read(dtype)
        at_BS, of_BS = masks.cache_slots(k_BGSK.shape[2], context.end, context.start_B)
        mask_BTS = masks.visible(context.positions_BT, at_BS + n, context.segments_BT, of_BS, **self._limits())
        return *self._read(k_BGSK, v_BGSK, 1), at_BS + n, mask_BTS

    def _virtual(self, context: Context, B: int, dtype: Any) -> tuple[Array, ...]:
        """The same of virtual tokens, which all texts see."""
        assert context.prefix_N2GnK is not None
        kv_2GnK = context.prefix_N2GnK[context.layer].astype(dtype)
        wide = lambda x: sharding.constrain(jnp.broadcast_to(x[None], (B, *x.shape)), "batch", "heads", None, None)
        at_1n = jnp.arange(kv_2GnK.shape[2])[None]
        return wide(kv_2GnK[0]), wide(kv_2GnK[1]), at_1n, masks.visible(context.positions_BT, at_1n, **self._limits())

    def _limits(self) -> dict[str, Any]:
        """Who sees whom."""
        return {"causal": self.c.causal, "window": self.c.window, "chunk": self.c.chunk}

    def _scoring(self) -> dict[str, Any]:
        """How products become probabilities."""
        c = self.c
        sinks_H = weight(self, "sinks", (c.H,), ("heads",)) if c.sinks else None
        return {"scale": c.scale, "softcap": c.softcap, "sinks_H": sinks_H}

    def _bias(self, context: Context) -> Callable[[Array], Array] | None:
        """Integer distances of any shape -> biases (H, *shape)."""
        c = self.c.position_bias
        if isinstance(c, SharedBucketsConfig):
            return c.of(context)
        return None if c is None else c.build(self.c.H, "position_bias")

    def _read(self, k: Array, v: Array, heads: int) -> tuple[Array, Array]:
        """Keys and values as they are attended to; key heads stand on the axis `heads`."""
        return k, v

    def _combine(self, o_BTHK: Array, context: Context) -> Array:
        """What the output projection reads of what each query head gathered."""
        return o_BTHK


def _joined(first: tuple[Array, ...], second: tuple[Array, ...]) -> tuple[Array, ...]:
    """Keys, values, positions and visibility of both."""
    B, axes, names = len(second[0]), (2, 2, 1, 2), (("batch", "heads", None, None),) * 2 + (("batch", None),) * 2
    wide = lambda x, name: sharding.constrain(
        jnp.broadcast_to(x, (B, *x.shape[1:])), *name, *[None] * (x.ndim - len(name))
    )
    return tuple(
        jnp.concatenate([wide(x, name), wide(y, name)], axis) for x, y, axis, name in zip(first, second, axes, names)
    )
