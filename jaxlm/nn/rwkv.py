"""RWKV-4's two mixers, one in the place of attention and one in that of the feed-forward: both see the token before."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.nn import init
from jaxlm.nn.branches import BranchConfig, BranchesConfig
from jaxlm.nn.context import Context
from jaxlm.nn.heads import keep
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.norm import LayerNormConfig
from jaxlm.nn.state import Recurrent, zeros
from jaxlm.ops.activations import relu2
from jaxlm.ops.conv import causal_conv
from jaxlm.ops.wkv import CHUNK, EMPTY, wkv
from jaxlm.sharding import einsum, weight


@dataclasses.dataclass(frozen=True)
class TimeMixConfig(MixerConfig):
    """RWKV-4's time mixing (Peng et al. 2023, arXiv:2305.13048): y = (sigmoid(r) * wkv(k, v)) out, where r, k and v are
    products of the token mixed with the one before. The channels are divided over the devices that divide heads."""

    D: int  # model width, of what the state keeps of the token before
    Z: int  # channels
    chunk_size: int = CHUNK  # positions that are computed in parallel

    def __post_init__(self):
        check(self, D=">= 1", Z=">= 1", chunk_size=">= 1")

    def build(self, depth: int, name: str) -> nn.Module:
        return TimeMix(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Recurrent:
        """The token before, float32 (B, 1, D), and the sums of none, (B, Z) each, whatever the length and the dtype."""
        zeros_BZ = zeros((B, self.Z), "batch", "heads")
        return Recurrent((no_token(B, self.D), (zeros_BZ + EMPTY, zeros_BZ, zeros_BZ)))

    def score_flops(self, T: int) -> float:
        """Of the sums, the average and the mixtures."""
        return 10 * self.Z + 9 * self.D


@dataclasses.dataclass(frozen=True)
class ChannelMixConfig(MixerConfig):
    """RWKV's channel mixing: y = sigmoid(r) * (relu(k)^2 out), a feed-forward that sees the token before too. So in
    versions 4 to 6; RWKV-7 has no r."""

    D: int  # model width, of what the state keeps of the token before
    F: int  # feed-forward width
    gated: bool = True

    def __post_init__(self):
        check(self, D=">= 1", F=">= 1")

    def build(self, depth: int, name: str) -> nn.Module:
        return ChannelMix(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Recurrent:
        """The token before, float32 (B, 1, D)."""
        return Recurrent(no_token(B, self.D))

    def score_flops(self, T: int) -> float:
        """Of the mixtures."""
        return 6 * self.D


def rwkv_layer(D: int, Z: int, F: int, eps: float = 1e-5) -> BranchesConfig:
    """A layer of RWKV-4. Its model has a norm of the embedding (`LMConfig.embed_norm`)."""
    time = BranchConfig("time", TimeMixConfig(D, Z), LayerNormConfig(eps))
    return BranchesConfig((time, BranchConfig("channel", ChannelMixConfig(D, F), LayerNormConfig(eps))))


class TimeMix(nn.Module):
    """x_BTD, context, past -> y_BTD, state: the last token and the sums behind it.

    Where positions are divided over devices, each has the whole row: one state runs along it.
    """

    c: TimeMixConfig
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Recurrent | None = None) -> tuple[Array, Recurrent]:
        c, (_, T, D), dtype = self.c, x_BTD.shape, x_BTD.dtype
        segments_BT, (before, state) = context.whole_segments_BT, (None, None) if past is None else past.value
        x_BTD, before_BTD, before = shifted(x_BTD, before, segments_BT)

        def project(name: str, power: float) -> Array:
            w_DZ = weight(self, name, (D, c.Z), ("embed", "heads"), init.fan_in((0,)), (0,))
            y_BTZ = einsum("btd,dz->btz", mixed(self, name, power, x_BTD, before_BTD), w_DZ.astype(dtype))
            return keep(sharding.constrain(y_BTZ, "batch", None, "heads"))[0]

        k_BTZ, v_BTZ, r_BTZ = (project(*at) for at in (("k", 0.5), ("v", 0.4), ("r", 0.25)))
        w_Z = jnp.exp(weight(self, "decay", (c.Z,), ("heads",), _decays))
        u_Z = weight(self, "bonus", (c.Z,), ("heads",), _bonuses)
        y_BTZ, state = wkv(k_BTZ, v_BTZ, w_Z, u_Z, state, segments_BT, c.chunk_size)
        y_BTZ = sharding.constrain(jax.nn.sigmoid(r_BTZ) * y_BTZ, *sharding.rows(T)[:2], "heads")
        w_ZD = weight(self, "o", (c.Z, D), ("heads", "embed"), init.residual((0,), self.depth), (0,))
        y_BTD = einsum("btz,zd->btd", y_BTZ, w_ZD.astype(dtype), out=sharding.stream(T))
        return checkpoint_name(y_BTD, "out"), Recurrent((before, state))


class ChannelMix(nn.Module):
    """x_BTD, context, past -> y_BTD, state: the last token."""

    c: ChannelMixConfig
    depth: int

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Recurrent | None = None) -> tuple[Array, Recurrent]:
        F, (_, T, D), dtype = self.c.F, x_BTD.shape, x_BTD.dtype
        x_BTD, before_BTD, before = shifted(x_BTD, None if past is None else past.value, context.whole_segments_BT)
        w_DF = weight(self, "k", (D, F), ("embed", "mlp"), init.fan_in((0,)), (0,))
        k_BTF = einsum("btd,df->btf", mixed(self, "k", 0.5, x_BTD, before_BTD), w_DF.astype(dtype))
        k_BTF = sharding.constrain(relu2(checkpoint_name(k_BTF, "mlp")), *sharding.rows(T)[:2], "mlp")
        w_FD = weight(self, "o", (F, D), ("mlp", "embed"), init.residual((0,), self.depth), (0,))
        y_BTD = einsum("btf,fd->btd", k_BTF, w_FD.astype(dtype), out=sharding.stream(T))
        if not self.c.gated:
            return y_BTD, Recurrent(before)
        w_DD = weight(self, "r", (D, D), ("embed", None), init.fan_in((0,)), (0,))
        r_BTD = einsum("btd,de->bte", mixed(self, "r", 0.5, x_BTD, before_BTD), w_DD.astype(dtype))
        return jax.nn.sigmoid(sharding.constrain(r_BTD, *sharding.stream(T))) * y_BTD, Recurrent(before)


def no_token(B: int, D: int) -> Array:
    return zeros((B, 1, D), "batch", None, None)


def shifted(x_BTD: Array, past_B1D: Array | None, segments_BT: Array | None) -> tuple[Array, Array, Array]:
    """Whole rows, the token before each (zeros before a text's first), and the last of all: a convolution's state."""
    x_BTD = sharding.constrain(x_BTD, "batch", None, None)
    one_before_WD = jnp.stack([jnp.ones(x_BTD.shape[-1]), jnp.zeros(x_BTD.shape[-1])])
    return x_BTD, *causal_conv(x_BTD, one_before_WD, None, past_B1D, segments_BT)


def mixed(module: nn.Module, name: str, power: float, x_BTD: Array, before_BTD: Array) -> Array:
    """Of the token and the one before, mu x + (1 - mu) before: mu begins as a power of the channel's place."""
    mu_D = weight(module, f"mix_{name}", x_BTD.shape[-1:], (None,), _powers(power)).astype(x_BTD.dtype)[None, None]
    return x_BTD * mu_D + before_BTD * (1 - mu_D)


def _powers(power: float) -> Callable:
    """(D,): (i / D)^power, as the middle layer of the paper's model has it."""
    return lambda key, shape, dtype: (jnp.arange(shape[0], dtype=dtype) / shape[0]) ** power


def _decays(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """(Z,): logarithms of rates, from -5 to 3, the slow ones in the majority, as the paper's middle layer has them."""
    return -5 + 8 * jnp.linspace(0, 1, shape[0], dtype=dtype) ** 1.35


def _bonuses(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """(Z,): log 0.3, and a half more, less, or nothing by turns, so that channels differ."""
    return jnp.log(0.3) + 0.5 * ((jnp.arange(shape[0]) + 1) % 3 - 1).astype(dtype)
