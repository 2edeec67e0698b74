"""Recurrent networks, LSTM and GRU, as mixers: the modules that own the gates' weights, and whose past is one state."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn import init
from jaxlm.nn.context import Context
from jaxlm.nn.heads import keep, merge
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.state import Recurrent
from jaxlm.ops.rnn import elman, gru, lstm
from jaxlm.sharding import einsum, weight


@dataclasses.dataclass(frozen=True)
class RNNConfig(MixerConfig):
    """A recurrent network of Z units, and a product of them that leads back to the model's width.

    In H blocks, where each sees its own units only, the recurrence is divided over the devices that divide heads. In
    one it is dense, and each of them computes all of it, but for the products before and after.
    """

    Z: int  # hidden units
    H: int = 1  # blocks of the recurrence
    bias: bool = True  # of the gates
    bias_out: bool = False  # of the output projection

    gates: ClassVar[int]
    arrays: ClassVar[int]  # of the state

    def __post_init__(self):
        check(self, Z=">= 1", H=">= 1")
        if self.Z % self.H:
            raise UserError(f"H={self.H} blocks must divide Z={self.Z} hidden units")

    @property
    def names(self) -> tuple[str | None, ...]:
        """The logical axes (H, K) of weights: the blocks are divided or, where there is but one, its units."""
        return ("heads", None) if self.H > 1 else (None, "heads")

    @property
    def where(self) -> tuple[str | None, ...]:
        """Those of the state."""
        return (self.names[0], None)

    def init_cache(self, B: int, length: int, dtype: Any) -> Recurrent:
        """Zeros, float32 (B, H, Z / H) each, whatever the length and the dtype."""
        shape, where = (B, self.H, self.Z // self.H), sharding.out_sharding("batch", *self.where)
        return Recurrent(tuple(jnp.zeros(shape, jnp.float32, out_sharding=where) for _ in range(self.arrays)))

    def score_flops(self, T: int) -> float:
        """None: all products are with weights."""
        return 0.0


@dataclasses.dataclass(frozen=True)
class LSTMConfig(RNNConfig):
    """Long short-term memory (Hochreiter & Schmidhuber 1997), see `ops.rnn.lstm`."""

    gates = 4
    arrays = 2

    def build(self, depth: int, name: str) -> nn.Module:
        return LSTM(self, depth, name=name)


@dataclasses.dataclass(frozen=True)
class GRUConfig(RNNConfig):
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078), see `ops.rnn.gru`."""

    gates = 3
    arrays = 1

    def build(self, depth: int, name: str) -> nn.Module:
        return GRU(self, depth, name=name)


@dataclasses.dataclass(frozen=True)
class ElmanConfig(RNNConfig):
    """The simple recurrent network (Elman 1990), see `ops.rnn.elman`."""

    gates = 1
    arrays = 1

    def build(self, depth: int, name: str) -> nn.Module:
        return Elman(self, depth, name=name)


class RNN(nn.Module):
    """x_BTD, context, past -> y_BTD, state: that behind the last token, which takes the place of the past.

    Where positions are divided over devices, each has the whole row: one state runs along it.
    """

    c: RNNConfig
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Recurrent | None = None) -> tuple[Array, Recurrent]:
        c, D, dtype = self.c, x_BTD.shape[-1], x_BTD.dtype
        n, H, K = c.gates, c.H, c.Z // c.H
        w_DnHK = weight(self, "x", (D, n, H, K), ("embed", None, *c.names), init.fan_in((0,)), (0,))
        x_BTnHK = einsum("btd,dnhk->btnhk", x_BTD, w_DnHK.astype(dtype))
        if c.bias:
            x_BTnHK += weight(self, "bias", (n, H, K), (None, *c.names), self._bias).astype(dtype)[None, None]
        (x_BTnHK,) = keep(sharding.constrain(x_BTnHK, "batch", None, None, *c.where))
        names = ("heads", None, None, None) if H > 1 else (None, "embed", None, None)
        w_HKnK = weight(self, "h", (H, K, n, K), names, orthogonal, (1,)).astype(dtype)
        w_HKnK = sharding.constrain(w_HKnK, *c.where, None, None)  # gathered once, not at every step
        segments_BT = context.whole_segments_BT
        h_BTHK, state = self._recur(x_BTnHK, w_HKnK, None if past is None else past.value, segments_BT)
        return merge(self, "o", h_BTHK, D, self.depth, c.bias_out, c.names), Recurrent(state)

    def _bias(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """How the gates' biases begin."""
        return jnp.zeros(shape, dtype)

    def _recur(self, x_BTnHK: Array, w_HKnK: Array, state: Any, segments_BT: Array | None) -> tuple[Array, Any]:
        raise NotImplementedError


class Elman(RNN):
    """As `RNN`; the state is (h_BHK,)."""

    def _recur(self, x_BTnHK: Array, w_HKnK: Array, state: Any, segments_BT: Array | None) -> tuple[Array, Any]:
        return elman(x_BTnHK, w_HKnK, None, state, segments_BT)


class LSTM(RNN):
    """As `RNN`; the state is (h_BHK, c_BHK)."""

    def _bias(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """The forget gate begins open (Jozefowicz et al. 2015)."""
        return jnp.zeros(shape, dtype).at[1].set(1)

    def _recur(self, x_BTnHK: Array, w_HKnK: Array, state: Any, segments_BT: Array | None) -> tuple[Array, Any]:
        return lstm(x_BTnHK, w_HKnK, None, state, segments_BT)


class GRU(RNN):
    """As `RNN`; the state is (h_BHK,). The candidate has a second bias, on which the reset gate acts."""

    def _recur(self, x_BTnHK: Array, w_HKnK: Array, state: Any, segments_BT: Array | None) -> tuple[Array, Any]:
        bias_3HK = None
        if self.c.bias:
            bias_HK = weight(self, "bias_h", w_HKnK.shape[::3], self.c.names)
            bias_HK = sharding.constrain(bias_HK, *self.c.where)
            bias_3HK = jnp.stack([jnp.zeros_like(bias_HK), jnp.zeros_like(bias_HK), bias_HK])
        return gru(x_BTnHK, w_HKnK, bias_3HK, state, segments_BT)


def orthogonal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """(H, K, n, K): one orthogonal matrix for every block and gate (Saxe et al. 2014, arXiv:1312.6120)."""
    H, K, n, _ = shape
    return jax.random.orthogonal(key, K, (H, n), dtype).swapaxes(1, 2)
