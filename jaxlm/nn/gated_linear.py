"""Mixers whose heads have a matrix as state that decays (`ops.gated_linear`): RetNet, GLA and HGRN2."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.nn import init
from jaxlm.nn.context import Context
from jaxlm.nn.heads import heads, merge
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.rope import RopeConfig, text_length
from jaxlm.nn.state import Recurrent, zeros
from jaxlm.ops.gated_linear import CHUNK, gated_linear
from jaxlm.ops.norms import grouped_rms_norm, layer_norm, rms_norm
from jaxlm.sharding import einsum, weight


@dataclasses.dataclass(frozen=True)
class MatrixConfig(MixerConfig):
    """H heads with a state (K, J) each: the base of the configs here. Heads are divided as those of attention."""

    H: int  # heads
    K: int  # width of their queries and keys
    J: int | None = None  # of their values; None: K
    eps: float = 1e-5  # of the norm of what they give
    chunk_size: int = CHUNK  # positions that are computed at once

    def __post_init__(self):
        check(self, **dict.fromkeys(("H", "K", "J", "chunk_size"), ">= 1"), eps="> 0")

    @property
    def values(self) -> int:
        return self.J or self.K

    def init_cache(self, B: int, length: int, dtype: Any) -> Recurrent:
        """Zeros, float32 (B, H, K, J), whatever the length and the dtype."""
        return Recurrent(zeros((B, self.H, self.K, self.values), "batch", "heads", None, None))

    def score_flops(self, T: int) -> float:
        """Of a chunk's scores and their products, and of the states."""
        J = self.values
        return self.H * (2 * min(self.chunk_size, T) * (self.K + J) + 4 * self.K * J)


@dataclasses.dataclass(frozen=True)
class RetNetConfig(MatrixConfig):
    """Retention (Sun et al. 2023, arXiv:2307.08621): q and k turn by their positions, head h decays by 1 - 2^(-5 - h),
    y = (norm(S^T q) * silu(x gate)) out. J = 2 K in the paper; of its xPos the rotation is here."""

    rope: RopeConfig = RopeConfig()

    def __post_init__(self):
        super().__post_init__()
        self.rope.width(self.K)

    def build(self, depth: int, name: str) -> nn.Module:
        return RetNet(self, depth, name=name)


@dataclasses.dataclass(frozen=True)
class GLAConfig(MatrixConfig):
    """Gated linear attention (Yang et al. 2023, arXiv:2312.06635): every channel of a key decays by
    sigmoid(x W1 W2 + b)^(1 / 16), y = (norm(S^T q) * silu(x gate)) out. K = J / 2 in the paper."""

    L: int = 16  # width between W1 and W2
    temperature: float = 16.0

    def __post_init__(self):
        super().__post_init__()
        check(self, L=">= 1", temperature="> 0")

    def build(self, depth: int, name: str) -> nn.Module:
        return GLA(self, depth, name=name)


@dataclasses.dataclass(frozen=True)
class HGRN2Config(MatrixConfig):
    """HGRN2 (Qin et al. 2024, arXiv:2404.07904): a forget gate f of each channel, 1 - f as the key, y = norm(S^T
    silu(q)) out over all heads at once. f = l + (1 - l) sigmoid(x W) is at least l, which grows with depth: n / N in
    layer n of N at first, learned by each layer (in the paper by one softmax over all layers)."""

    def build(self, depth: int, name: str) -> nn.Module:
        return HGRN2(self, depth, name=name)


class _Matrix(nn.Module):
    """x_BTD, context, past -> y_BTD, state: the states behind the last token.

    Where positions are divided over devices, each has the whole row: one state runs along it.
    """

    c: Any
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Recurrent | None = None) -> tuple[Array, Recurrent]:
        segments_BT, state = context.whole_segments_BT, None if past is None else past.value
        q_BTHK, k_BTHK, v_BTHJ, log_BTHK = self._inputs(x_BTD, context)
        y_BTHJ, state = gated_linear(
            q_BTHK, k_BTHK, v_BTHJ, log_BTHK, None, state, segments_BT, chunk=self.c.chunk_size
        )
        return merge(self, "o", self._read(y_BTHJ, x_BTD), x_BTD.shape[-1], self.depth), Recurrent(state)

    def _inputs(self, x_BTD: Array, context: Context) -> tuple[Array, ...]:
        """q, k, v and the decays' logarithms."""
        raise NotImplementedError

    def _read(self, y_BTHJ: Array, x_BTD: Array) -> Array:
        scale_J = weight(self, "norm", (self.c.values,), (None,), nn.initializers.ones_init())
        return gated(self, rms_norm(y_BTHJ, scale_J, self.c.eps), x_BTD)


class RetNet(_Matrix):
    """Retention, see `RetNetConfig`."""

    def _inputs(self, x_BTD: Array, context: Context) -> tuple[Array, ...]:
        c, positions_BT = self.c, sharding.replicated(context.positions_BT, 1)
        turn = lambda x_BTHK: c.rope.rotate(x_BTHK, positions_BT, text_length(context.positions_BT))
        q_BTHK, k_BTHK = (turn(heads(self, name, x_BTD, c.H, c.K)) for name in "qk")
        log_H = jnp.log1p(-(2.0 ** (-5 - jnp.arange(c.H))))
        log_BTHK = jnp.zeros_like(k_BTHK[..., :1], jnp.float32) + log_H[None, None, :, None]
        return q_BTHK, k_BTHK * c.K**-0.5, heads(self, "v", x_BTD, c.H, c.values), log_BTHK

    def _read(self, y_BTHJ: Array, x_BTD: Array) -> Array:
        return gated(self, layer_norm(y_BTHJ, None, None, self.c.eps), x_BTD)


class GLA(_Matrix):
    """Gated linear attention, see `GLAConfig`."""

    def _inputs(self, x_BTD: Array, context: Context) -> tuple[Array, ...]:
        c = self.c
        q_BTHK, k_BTHK = (heads(self, name, x_BTD, c.H, c.K) for name in "qk")
        gate_BTHK = low_rank(self, "decay", x_BTD, c.L, c.H, c.K)
        gate_BTHK += weight(self, "decay_bias", (c.H, c.K), ("heads", None))[None, None]
        log_BTHK = jax.nn.log_sigmoid(gate_BTHK) / c.temperature
        return q_BTHK * c.K**-0.5, k_BTHK, heads(self, "v", x_BTD, c.H, c.values), log_BTHK


class HGRN2(_Matrix):
    """HGRN2, see `HGRN2Config`."""

    def _inputs(self, x_BTD: Array, context: Context) -> tuple[Array, ...]:
        c = self.c
        q_BTHK, gate_BTHK = (heads(self, name, x_BTD, c.H, c.K) for name in ("q", "forget"))
        bound_HK = weight(self, "bound", (c.H, c.K), ("heads", None))
        log_BTHK, k_BTHK = forget(gate_BTHK.astype(jnp.float32), bound_HK[None, None], context, self.depth)
        return jax.nn.silu(q_BTHK), k_BTHK, heads(self, "v", x_BTD, c.H, c.values), log_BTHK

    def _read(self, y_BTHJ: Array, x_BTD: Array) -> Array:
        shape = self.c.H, self.c.values
        scale_HJ = weight(self, "norm", shape, ("heads", None), nn.initializers.ones_init())
        return grouped_rms_norm(y_BTHJ, scale_HJ, 1, self.c.eps)


# What such mixers share ----------------------------------------------------------------------------------------------


def into_heads(module: nn.Module, name: str, x_BTD: Array) -> Array:
    """x_BTD -> x_BTH by the weight `name` (D, H), float32, of whole rows."""
    H = module.c.H  # pyright: ignore
    w_DH = weight(module, name, (x_BTD.shape[-1], H), ("embed", "heads"), init.fan_in((0,)), (0,))
    y_BTH = einsum("btd,dh->bth", x_BTD, w_DH.astype(x_BTD.dtype)).astype(jnp.float32)
    return sharding.constrain(y_BTH, "batch", None, "heads")


def low_rank(
    module: nn.Module,
    name: str,
    x_BTD: Array,
    L: int,
    H: int,
    K: int,
    bias: Callable | None = None,
    act: Callable | None = None,
) -> Array:
    """x_BTD -> x_BTHK by the weights `name`_in (D, L) and `name`_out (L, H, K), float32, of whole rows. `act` stands
    between; `bias` initialises one, and then what is added to it begins at zero."""
    first = init.fan_in((0,)) if bias is None else nn.initializers.zeros_init()
    w_DL = weight(module, f"{name}_in", (x_BTD.shape[-1], L), ("embed", None), first, (0,))
    low_BTL = sharding.constrain(einsum("btd,dl->btl", x_BTD, w_DL.astype(x_BTD.dtype)), "batch", None, None)
    low_BTL = low_BTL if act is None else act(low_BTL)
    w_LHK = weight(module, f"{name}_out", (L, H, K), (None, "heads", None), init.fan_in((0,)), (0,))
    y_BTHK = einsum("btl,lhk->bthk", low_BTL, w_LHK.astype(x_BTD.dtype)).astype(jnp.float32)
    if bias is not None:
        y_BTHK += weight(module, f"{name}_bias", (H, K), ("heads", None), bias)[None, None]
    return sharding.constrain(y_BTHK, "batch", None, "heads", None)


def gated(module: nn.Module, y_BTHJ: Array, x_BTD: Array) -> Array:
    """y silu(x gate)."""
    return y_BTHJ * jax.nn.silu(heads(module, "gate", x_BTD, *y_BTHJ.shape[2:]))


def forget(gate: Array, bound: Array, context: Context, depth: int) -> tuple[Array, Array]:
    """log f and 1 - f, where f = l + (1 - l) sigmoid(gate) and l = n / N in layer n of N, moved by what is learned."""
    layer = jnp.maximum(jnp.asarray(context.layer, jnp.float32), 1e-9 * depth)
    bound = bound.astype(jnp.float32) + jnp.log(layer) - jnp.log(depth - jnp.minimum(layer, depth - 0.5))
    log = jnp.logaddexp(jax.nn.log_sigmoid(bound), jax.nn.log_sigmoid(-bound) + jax.nn.log_sigmoid(gate))
    return log, jax.nn.sigmoid(-bound) * jax.nn.sigmoid(-gate)
