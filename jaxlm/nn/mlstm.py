"""mLSTM as a mixer in two forms: that of xLSTM 7B, beside a feed-forward, and that of the xLSTM paper, which is all of
a layer."""

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
from jaxlm.nn.context import Context
from jaxlm.nn.heads import heads, merge
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.state import Recurrent, zeros
from jaxlm.ops.conv import causal_conv
from jaxlm.ops.mlstm import CHUNK, mlstm
from jaxlm.ops.norms import layer_norm
from jaxlm.sharding import einsum, weight


@dataclasses.dataclass(frozen=True)
class MLSTMConfig(MixerConfig):
    """The mLSTM of xLSTM 7B (Beck et al. 2025, arXiv:2503.13427): y = (sigmoid(x o) * norm(mlstm(q, k, v, i, f))) out.

    Its layer has a gated feed-forward, as a Transformer's. Heads are divided over the devices that divide those of
    attention.
    """

    H: int  # heads
    K: int  # width of queries and keys
    J: int | None = None  # of values; None: K
    gate_cap: float | None = 15.0  # gates g become c tanh(g / c)
    eps: float = 1e-6  # of the norm of each head
    chunk_size: int = CHUNK  # positions that are computed in parallel

    def __post_init__(self):
        check(self, H=">= 1", K=">= 1", J=">= 1", gate_cap="> 0", eps="> 0", chunk_size=">= 1")

    def build(self, depth: int, name: str) -> nn.Module:
        return MLSTM(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Recurrent:
        """Zeros, float32 (B, H, K, J + 1) and (B, H), whatever the length and the dtype."""
        return Recurrent(_memory(B, self.H, self.K, self.J or self.K))

    def score_flops(self, T: int) -> float:
        return _flops(self.H, self.K, self.J or self.K, min(self.chunk_size, T))


@dataclasses.dataclass(frozen=True)
class PreUpMLSTMConfig(MixerConfig):
    """The mLSTM of the xLSTM paper (Beck et al. 2024, arXiv:2405.04517) within its projections up and down.

    c = silu(conv(x in)); q and k are products of c, v of x in, each in blocks; i and f of all of q, k and v;
    y = ((norm(mlstm(q, k, v, i, f)) + skip c) * silu(x gate)) out. A layer is `BlockConfig(PreUpMLSTMConfig(H, K),
    None)`, of twice the model's width H K.
    """

    H: int  # heads
    K: int  # width of each
    W: int = 4  # tokens that the convolution sees
    M: int = 4  # width of the blocks of q, k and v
    eps: float = 1e-5  # of the norm of each head
    chunk_size: int = CHUNK  # positions that are computed in parallel

    def __post_init__(self):
        check(self, H=">= 1", K=">= 1", W=">= 2", M=">= 1", eps="> 0", chunk_size=">= 1")
        if self.K % self.M:
            raise UserError(f"M={self.M}, the width of blocks, must divide that of a head, K={self.K}")

    def build(self, depth: int, name: str) -> nn.Module:
        return PreUpMLSTM(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> Recurrent:
        """Zeros, float32: the last inputs of the convolution, and as `MLSTMConfig` has it."""
        conv = zeros((B, self.W - 1, self.H, self.K), "batch", None, "heads", None)
        return Recurrent((conv, _memory(B, self.H, self.K, self.K)))

    def score_flops(self, T: int) -> float:
        return 2 * self.W * self.H * self.K + _flops(self.H, self.K, self.K, min(self.chunk_size, T))


class MLSTM(nn.Module):
    """x_BTD, context, past -> y_BTD, state: that behind the last token, which takes the place of the past.

    Where positions are divided over devices, each has the whole row: one state runs along it.
    """

    c: MLSTMConfig
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Recurrent | None = None) -> tuple[Array, Recurrent]:
        c, D, J = self.c, x_BTD.shape[-1], self.c.J or self.c.K
        widths = {"q": c.K, "k": c.K, "v": J, "gate": J}
        read = {name: heads(self, name, x_BTD, c.H, width) for name, width in widths.items()}
        i_BTH, f_BTH = (self._gate(name, start, x_BTD) for name, start in (("i", _shut), ("f", _open)))
        h_BTHJ, state = mlstm(
            read["q"],
            read["k"],
            read["v"],
            i_BTH,
            f_BTH,
            None if past is None else past.value,
            context.whole_segments_BT,
            c.chunk_size,
        )
        h_BTHJ = normed(self, h_BTHJ, c.eps) * jax.nn.sigmoid(read["gate"])
        return merge(self, "o", h_BTHJ, D, self.depth), Recurrent(state)

    def _gate(self, name: str, start: Any, x_BTD: Array) -> Array:
        w_DH = weight(self, name, (x_BTD.shape[-1], self.c.H), ("embed", "heads"), inputs=(0,))
        g_BTH = einsum("btd,dh->bth", x_BTD, w_DH.astype(x_BTD.dtype)).astype(jnp.float32)
        g_BTH += weight(self, f"{name}_bias", (self.c.H,), ("heads",), start)[None, None]
        g_BTH = sharding.constrain(g_BTH, "batch", None, "heads")
        return g_BTH if self.c.gate_cap is None else self.c.gate_cap * jnp.tanh(g_BTH / self.c.gate_cap)


class PreUpMLSTM(nn.Module):
    """x_BTD, context, past -> y_BTD, state: the last inputs of the convolution and the memory behind the last token."""

    c: PreUpMLSTMConfig
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Recurrent | None = None) -> tuple[Array, Recurrent]:
        c, D, segments_BT = self.c, x_BTD.shape[-1], context.whole_segments_BT
        conv, state = (None, None) if past is None else past.value
        x_BTHK, gate_BTHK = (heads(self, name, x_BTD, c.H, c.K) for name in ("x", "gate"))
        w_WHK = weight(self, "conv", (c.W, c.H, c.K), (None, "heads", None), init.fan_in((0,)))
        bias_HK = weight(self, "conv_bias", (c.H, c.K), ("heads", None))
        c_BTHK, conv = causal_conv(x_BTHK, w_WHK, bias_HK, conv, segments_BT)
        c_BTHK = jax.nn.silu(c_BTHK)
        q_BTHK, k_BTHK, v_BTHK = qkv = [self._blocks(*at) for at in (("q", c_BTHK), ("k", c_BTHK), ("v", x_BTHK))]
        i_BTH, f_BTH = (self._gate(name, start, qkv) for name, start in (("i", _small), ("f", _open)))
        h_BTHK, state = mlstm(q_BTHK, k_BTHK, v_BTHK, i_BTH, f_BTH, state, segments_BT, c.chunk_size)
        skip_HK = weight(self, "skip", (c.H, c.K), ("heads", None), nn.initializers.ones_init())
        h_BTHK = normed(self, h_BTHK, c.eps) + skip_HK.astype(x_BTD.dtype)[None, None] * c_BTHK
        return merge(self, "o", h_BTHK * jax.nn.silu(gate_BTHK), D, self.depth), Recurrent((conv, state))

    def _blocks(self, name: str, x_BTHK: Array) -> Array:
        """A product within each block of M channels."""
        (H, K), M = x_BTHK.shape[2:], self.c.M
        w_HnMM = weight(self, name, (H, K // M, M, M), ("heads", None, None, None), init.fan_in((2,)), (2,))
        x_BTHnM = x_BTHK.reshape(*x_BTHK.shape[:3], -1, M)
        return jnp.einsum("bthnm,hnmk->bthnk", x_BTHnM, w_HnMM.astype(x_BTHK.dtype)).reshape(x_BTHK.shape)

    def _gate(self, name: str, start: Any, qkv: list[Array]) -> Array:
        """A gate of each head, from the queries, keys and values of all of them."""
        c, g_BTH = self.c, weight(self, f"{name}_bias", (self.c.H,), (None,), start)[None, None]
        w_3HKH = weight(self, name, (3, c.H, c.K, c.H), (None, "heads", None, None), inputs=(0, 1, 2))
        for w_HKH, x_BTHK in zip(w_3HKH.astype(qkv[0].dtype), qkv):
            g_BTH += einsum("bthk,hkg->btg", x_BTHK, w_HKH, out=("batch", None, None)).astype(jnp.float32)
        return sharding.constrain(g_BTH, "batch", None, "heads")


def _memory(B: int, H: int, K: int, J: int) -> tuple[Array, Array]:
    return zeros((B, H, K, J + 1), "batch", "heads", None, None), zeros((B, H), "batch", "heads")


def _flops(H: int, K: int, J: int, C: int) -> float:
    """Of a chunk's scores and their products, and of the states."""
    return 2 * C * H * (K + J + 1) + 4 * H * K * (J + 1)


def normed(module: nn.Module, h_BTHJ: Array, eps: float) -> Array:
    """Layer norm of each head."""
    scale_HJ = weight(module, "norm", h_BTHJ.shape[2:], ("heads", None), nn.initializers.ones_init())
    return layer_norm(h_BTHJ, scale_HJ, None, eps)


def _open(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Biases of forget gates: from 3 to 6, so that heads remember for about 20 to 400 tokens."""
    return jnp.linspace(3.0, 6.0, shape[0], dtype=dtype)


def _small(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Of input gates in the xLSTM paper."""
    return 0.1 * jax.random.normal(key, shape, dtype)


def _shut(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Of input gates in xLSTM 7B."""
    return jnp.full(shape, -10, dtype)
