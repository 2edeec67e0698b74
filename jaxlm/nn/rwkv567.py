"""The time mixing of RWKV-5 (Eagle), RWKV-6 (Finch) and RWKV-7 (Goose): heads whose state is a matrix."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn import init
from jaxlm.nn.branches import BranchConfig, BranchesConfig
from jaxlm.nn.context import Context
from jaxlm.nn.gated_linear import MatrixConfig, low_rank
from jaxlm.nn.heads import heads, merge
from jaxlm.nn.norm import LayerNormConfig
from jaxlm.nn.rwkv import ChannelMixConfig, mixed, no_token, shifted
from jaxlm.nn.stack import LayersConfig
from jaxlm.nn.state import Recurrent
from jaxlm.ops.delta import diagonal_plus_rank_one
from jaxlm.ops.gated_linear import gated_linear
from jaxlm.ops.norms import layer_norm
from jaxlm.sharding import einsum, weight

POWERS = {"r": 0.25, "k": 0.5, "v": 0.4, "g": 0.25, "w": 0.5, "a": 0.5}  # of the mixtures as they begin


@dataclasses.dataclass(frozen=True)
class TimeMix5Config(MatrixConfig):
    """RWKV-5 (Peng et al. 2024, arXiv:2404.05892): y = (norm(gated_linear(r, k, v)) * silu(g)) out, where r, k, v and g
    are products of the token mixed with the one before; every channel has a decay and a bonus of its own."""

    eps: float = 64e-5
    D: int = dataclasses.field(kw_only=True)  # model width, of what the state keeps of the token before

    def __post_init__(self):
        super().__post_init__()
        check(self, D=">= 1")
        if self.values != self.K:
            raise UserError(f"J={self.J}: RWKV's values are as wide as its keys, K={self.K}")

    def build(self, depth: int, name: str) -> nn.Module:
        return TimeMix5(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Recurrent:
        """The token before, float32 (B, 1, D), and zeros (B, H, K, K), whatever the length and the dtype."""
        return Recurrent((no_token(B, self.D), super().init_cache(B, length, dtype).value))

    def score_flops(self, T: int) -> float:
        """With the mixtures."""
        return super().score_flops(T) + 12 * self.D


@dataclasses.dataclass(frozen=True)
class TimeMix6Config(TimeMix5Config):
    """RWKV-6 (Peng et al. 2024, arXiv:2404.05892): as RWKV-5, but the mixtures and the decay come from the tokens, by
    products of low rank."""

    L: int = 32  # rank of the mixtures
    L_decay: int = 64

    def __post_init__(self):
        super().__post_init__()
        check(self, L=">= 1", L_decay=">= 1")

    def build(self, depth: int, name: str) -> nn.Module:
        return TimeMix6(self, depth, name=name)


@dataclasses.dataclass(frozen=True)
class TimeMix7Config(TimeMix5Config):
    """RWKV-7 (Peng et al. 2025, arXiv:2503.14456): S_t = (diag(w) - (a kappa) kappa^T) S + k v^T, a delta rule with a
    rate and a decay of each channel: w = exp(-sigmoid(.) / sqrt(e)). A layer mixes its values with those of the model's
    first, which hands them on (`first`)."""

    L_decay: int = 64
    L_rate: int = 64
    L_value: int = 32
    L_gate: int = 128
    first: bool = False

    def __post_init__(self):
        super().__post_init__()
        check(self, **dict.fromkeys(("L_decay", "L_rate", "L_value", "L_gate"), ">= 1"))

    def build(self, depth: int, name: str) -> nn.Module:
        return TimeMix7(self, depth, name=name)


def rwkv7_layers(N: int, D: int, F: int, K: int = 64, **more: Any) -> tuple[LayersConfig, ...]:
    """N layers of RWKV-7, of which the first hands on its values; `more` goes to `TimeMix7Config`."""
    if D % K:
        raise UserError(f"heads of width K={K} must divide D={D}")

    def layer(first: bool) -> BranchesConfig:
        time = TimeMix7Config(D // K, K, D=D, first=first, **more)
        return matrix_rwkv_layer(time, ChannelMixConfig(D, F, gated=False))

    later = (LayersConfig((layer(False),), N - 1),) if N > 1 else ()
    return (LayersConfig((layer(True),)), *later)


def matrix_rwkv_layer(time: TimeMix5Config, channel: ChannelMixConfig, eps: float = 1e-5) -> BranchesConfig:
    """A layer of RWKV-5, 6 or 7. Its model has a norm of the embedding (`LMConfig.embed_norm`)."""
    time_branch = BranchConfig("time", time, LayerNormConfig(eps))
    return BranchesConfig((time_branch, BranchConfig("channel", channel, LayerNormConfig(eps))))


class TimeMix5(nn.Module):
    """x_BTD, context, past -> y_BTD, state: the last token and the states behind it.

    Where positions are divided over devices, each has the whole row: one state runs along it.
    """

    c: Any
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Recurrent | None = None) -> tuple[Array, Recurrent]:
        segments_BT, (before, state) = context.whole_segments_BT, (None, None) if past is None else past.value
        x_BTD, before_BTD, before = shifted(x_BTD, before, segments_BT)
        y_BTHK, state, handed = self._recur(x_BTD, before_BTD, context, segments_BT, state)
        y_BTD = merge(self, "o", y_BTHK.astype(x_BTD.dtype), x_BTD.shape[-1], self.depth)
        return y_BTD, Recurrent((before, state), handed=handed)

    def _recur(self, x_BTD, before_BTD, context, segments_BT, state) -> tuple[Array, Array, Array | None]:
        c, mix = self.c, self._mixtures(x_BTD, before_BTD)
        r_BTHK, k_BTHK, v_BTHK, gate_BTHK = (heads(self, name, mix[name], c.H, c.K) for name in "rkvg")
        log_BTHK = self._decay(mix) + jnp.zeros_like(k_BTHK, jnp.float32)
        u_HK = weight(self, "bonus", (c.H, c.K), ("heads", None), _bonuses)
        y_BTHK, state = gated_linear(r_BTHK, k_BTHK, v_BTHK, log_BTHK, u_HK, state, segments_BT, c.chunk_size)
        return self._normed(y_BTHK) * jax.nn.silu(gate_BTHK), state, None

    def _mixtures(self, x_BTD: Array, before_BTD: Array) -> dict[str, Array]:
        return {name: mixed(self, name, POWERS[name], x_BTD, before_BTD) for name in "rkvg"}

    def _decay(self, mix: dict[str, Array]) -> Array:
        return -jnp.exp(weight(self, "decay", (self.c.H, self.c.K), ("heads", None), _speeds))[None, None]

    def _normed(self, y_BTHK: Array) -> Array:
        shape = (self.c.H, self.c.K), ("heads", None)
        scale_HK = weight(self, "norm", *shape, nn.initializers.ones_init())
        return layer_norm(y_BTHK, scale_HK, weight(self, "norm_bias", *shape), self.c.eps)


class TimeMix6(TimeMix5):
    """As `TimeMix5`, with mixtures and decays that come from the tokens."""

    def _mixtures(self, x_BTD: Array, before_BTD: Array) -> dict[str, Array]:
        c, D, dtype, names = self.c, x_BTD.shape[-1], x_BTD.dtype, "wkvrg"
        w_DEL = weight(self, "mix_in", (D, 5, c.L), ("embed", None, None), inputs=(0,))
        low_BTEL = einsum("btd,del->btel", mixed(self, "x", 0.5, x_BTD, before_BTD), w_DEL.astype(dtype))
        low_BTEL = jnp.tanh(sharding.constrain(low_BTEL, "batch", None, None, None))
        w_ELD = weight(self, "mix_out", (5, c.L, D), (None, None, "embed"), init.fan_in((1,)), (1,))
        w_ELD = sharding.constrain(w_ELD, None, None, None).astype(dtype)
        more_BTED = jnp.einsum("btel,eld->bted", low_BTEL, w_ELD)
        mix = lambda i, name: (
            mixed(self, name, POWERS[name], x_BTD, before_BTD) + more_BTED[:, :, i] * (before_BTD - x_BTD)
        )
        return {name: mix(i, name) for i, name in enumerate(names)}

    def _decay(self, mix: dict[str, Array]) -> Array:
        c = self.c
        return -jnp.exp(low_rank(self, "decay", mix["w"], c.L_decay, c.H, c.K, _speeds, jnp.tanh))


class TimeMix7(TimeMix5):
    """As `TimeMix5`, with the delta rule of `TimeMix7Config`; its state hands on the values where it is the first."""

    def _recur(self, x_BTD, before_BTD, context, segments_BT, state) -> tuple[Array, Array, Array | None]:
        c, H, K = self.c, self.c.H, self.c.K
        mix = {name: mixed(self, name, POWERS[name], x_BTD, before_BTD) for name in "rwkvag"}
        r_BTHK, k_BTHK, v_BTHK = (heads(self, name, mix[name], H, K).astype(jnp.float32) for name in "rkv")
        low = lambda name, of, L, *more: low_rank(self, name, mix[of], L, H, K, *more)
        vector = lambda name, *how: weight(self, name, (H, K), ("heads", None), *how).astype(jnp.float32)[None, None]
        log_BTHK = -jnp.exp(-0.5) * jax.nn.sigmoid(low("decay", "w", c.L_decay, _speeds, jnp.tanh))
        rate_BTHK = jax.nn.sigmoid(low("rate", "a", c.L_rate, nn.initializers.zeros_init()))
        handed = v_BTHK if c.first else None
        if not c.first:
            if context.handed is None:
                raise UserError("RWKV-7's layers mix their values with the first one's: see nn.rwkv7_layers")
            share_BTHK = jax.nn.sigmoid(low("value", "v", c.L_value, nn.initializers.ones_init()))
            v_BTHK += (context.handed - v_BTHK) * share_BTHK
        at_BTHK = k_BTHK * vector("removed", nn.initializers.constant(0.85))
        at_BTHK *= jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(at_BTHK), -1, keepdims=True), 1e-24))
        k_BTHK *= 1 + (rate_BTHK - 1) * vector("replaced", nn.initializers.ones_init())
        y_BTHK, state = diagonal_plus_rank_one(
            r_BTHK, k_BTHK, v_BTHK, log_BTHK, -at_BTHK, at_BTHK * rate_BTHK, state, segments_BT, c.chunk_size
        )
        y_BTHK = self._normed(y_BTHK)
        y_BTHK += jnp.sum(r_BTHK * k_BTHK * vector("bonus"), -1, keepdims=True) * v_BTHK
        return y_BTHK * low("gate", "g", c.L_gate, None, jax.nn.sigmoid), state, handed


def _speeds(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """(H, K): logarithms of rates of decay, from -6 to -1, the slow ones in the majority."""
    return -6 + 5 * jnp.linspace(0, 1, shape[0] * shape[1], dtype=dtype).reshape(shape) ** 1.35


def _bonuses(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """(H, K): from a half to nothing, and a tenth more, less, or nothing by turns, so that channels differ."""
    n = shape[0] * shape[1]
    return (0.5 * jnp.linspace(1, 0, n, dtype=dtype) + 0.1 * ((jnp.arange(n) + 1) % 3 - 1)).astype(dtype).reshape(shape)
