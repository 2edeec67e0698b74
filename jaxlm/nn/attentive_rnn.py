"""Recurrent decoders with attention to a memory, as mixers: the modules that own the weights of cell and scores."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxlm import sharding
from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn import init
from jaxlm.nn.context import Context
from jaxlm.nn.heads import merge
from jaxlm.nn.mixer import MixerConfig
from jaxlm.nn.rnn import orthogonal
from jaxlm.nn.state import Memory, Recurrent, zeros
from jaxlm.ops.additive import additive_attention, multiplicative_attention
from jaxlm.ops.attentive_rnn import bahdanau, luong
from jaxlm.ops.rnn import elman_step, gru_step, lstm_step
from jaxlm.sharding import einsum, weight

CELLS = {"rnn": (1, 1, elman_step), "gru": (3, 1, gru_step), "lstm": (4, 2, lstm_step)}  # gates, arrays of the state


@dataclasses.dataclass(frozen=True)
class AttentiveRNNConfig(MixerConfig):
    """A recurrence of Z units that looks at the memory once a token. It begins at h = tanh(mean(memory) W)."""

    Z: int  # hidden units
    F: int = 0  # hidden units of additive scores
    cell: Literal["rnn", "gru", "lstm"] = "gru"

    score = "additive"
    fed = 0  # arrays of the state beside the cell's

    def __post_init__(self):
        check(self, Z=">= 1", F=">= 0")
        if (self.score in ("additive", "concat")) != bool(self.F):
            raise UserError(f"F={self.F}: scores of additive and concat need hidden units, dot and general have none")

    @property
    def arrays(self) -> int:
        """Of the state."""
        return CELLS[self.cell][1] + self.fed

    def build(self, depth: int, name: str) -> nn.Module:
        return AttentiveRNN(self, depth, name=name)

    def init_cache(self, B: int, length: int, dtype: Any) -> dict[str, Any]:
        """A state of zeros, float32 (B, Z) each, and an empty memory."""
        empty = tuple(zeros((B, self.Z), "batch", None) for _ in range(self.arrays))
        return {"state": Recurrent(empty), "memory": Memory()}

    def score_flops(self, T: int) -> float:
        """Forward FLOPs per token of scores and mixture, of a memory as long as the text and as wide as its keys."""
        return 4 * (self.F or self.Z) * T


@dataclasses.dataclass(frozen=True)
class BahdanauConfig(AttentiveRNNConfig):
    """Looks before each step, by an additive score (Bahdanau et al. 2015, arXiv:1409.0473), see
    `ops.attentive_rnn.bahdanau`."""


@dataclasses.dataclass(frozen=True)
class LuongConfig(AttentiveRNNConfig):
    """Looks behind each step (Luong et al. 2015, arXiv:1508.04025), see `ops.attentive_rnn.luong`."""

    score: Literal["dot", "general", "concat"] = "general"
    feed: bool = True  # what was seen goes into the next step

    fed = 1


class AttentiveRNN(nn.Module):
    """x_BTD, context, past -> y_BTD, {"state": that behind the last token, "memory": keys, values and their mask}.

    Positions are computed one after the other on every device, whole rows of them.
    """

    c: AttentiveRNNConfig
    depth: int  # layers of the model, for the initial size of the output projection

    def __call__(self, x_BTD: Array, context: Context, past: Any = None) -> tuple[Array, dict[str, Any]]:
        y_BTD, state, _ = self.aligned(x_BTD, context, past)
        return y_BTD, state

    @nn.compact
    def aligned(self, x_BTD: Array, context: Context, past: Any = None) -> tuple[Array, dict[str, Any], Array]:
        """The same, and the alignment a_BTS: how much of each place in the memory a token has seen, in float32."""
        c, dtype, (n, _, step) = self.c, x_BTD.dtype, CELLS[self.c.cell]
        D, Z, packed = x_BTD.shape[-1], c.Z, context.memory_segments_BS is not None
        segments_BT = context.whole_segments_BT
        if past is None or past["memory"].value is None:
            if context.memory_BSD is None:
                raise UserError("an attentive RNN needs a memory, or the past that an earlier call made of it")
            values_BSE = _whole(context.memory_BSD.astype(dtype))
            mask_BS = context.memory_segments_BS if packed else context.memory_mask_BS
            mask_BS = None if mask_BS is None else _whole(mask_BS)
            key_BSF = self._key(values_BSE)
            memory = Memory((key_BSF, values_BSE, mask_BS))
            begin = self._begin(values_BSE, mask_BS, segments_BT if packed else None, x_BTD.shape[1])
        else:
            key_BSF, values_BSE, mask_BS = past["memory"].value
            memory, packed, begin = Memory(), False, tuple(h_BZ[:, None] for h_BZ in past["state"].value)
        E = values_BSE.shape[-1]
        query_ZF = self._matrix("query", dtype, Z, c.F) if c.F else None
        score_F = weight(self, "score", (c.F,), (None,), init.fan_in((0,)), (0,)) if c.F else None

        def attend(h_BZ: Array, segment_B: Array | None) -> tuple[Array, Array]:
            seen_BS = mask_BS == segment_B[:, None] if packed and segment_B is not None else mask_BS
            q_B1Z = h_BZ.astype(dtype)[:, None]
            if query_ZF is None or score_F is None:
                c_B1E, a_B1S = multiplicative_attention(q_B1Z, key_BSF, values_BSE, seen_BS)
            else:
                c_B1E, a_B1S = additive_attention(q_B1Z @ query_ZF, key_BSF, values_BSE, score_F, seen_BS)
            return c_B1E[:, 0], a_B1S[:, 0]

        w_DnZ = weight(self, "x", (D, n, Z), ("embed", None, None), init.fan_in((0,)), (0,))
        open_ = lambda key, shape, dtype: jnp.zeros(shape, dtype).at[1].set(1) if n == 4 else jnp.zeros(shape, dtype)
        bias_nZ = weight(self, "bias", (n, Z), (None, None), open_)
        x_BTnZ = _whole(einsum("btd,dnz->btnz", x_BTD, w_DnZ.astype(dtype)) + bias_nZ.astype(dtype)[None, None])
        w_1ZnZ = weight(self, "h", (1, Z, n, Z), (None, "embed", None, None), orthogonal, (1,)).astype(dtype)
        w_1ZnZ = sharding.constrain(w_1ZnZ, None, None, None, None)  # gathered once, not at every step

        def cell(x_BnZ: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
            new = step(x_BnZ[:, :, None], w_1ZnZ, None, tuple(h_BZ[:, None] for h_BZ in state))
            return tuple(h_B1Z[:, 0] for h_B1Z in new)

        where = begin, None if past is None else past["state"].value, segments_BT
        if isinstance(c, LuongConfig):
            feed_ZnZ = self._matrix("feed", dtype, Z, n, Z) if c.feed else None
            mix = self._matrix("mix", dtype, Z + E, Z)
            h_BTE, a_BTS, state = luong(cell, attend, x_BTnZ, feed_ZnZ, mix, *where)
        else:
            context_EnZ = self._matrix("context", dtype, E, n, Z)
            h_BTE, a_BTS, state = bahdanau(cell, attend, x_BTnZ, context_EnZ, *where)
        y_BTD = merge(self, "o", h_BTE[:, :, None], D, self.depth, names=(None, None))
        return y_BTD, {"state": Recurrent(state), "memory": memory}, a_BTS

    def _matrix(self, name: str, dtype: Any, *shape: int) -> Array:
        """A weight from its first axis to the others, whole on every device."""
        w = weight(self, name, shape, ("embed", *[None] * (len(shape) - 1)), init.fan_in((0,)), (0,))
        return sharding.constrain(w.astype(dtype), *[None] * len(shape))

    def _key(self, values_BSE: Array) -> Array:
        """What the scores read of the memory."""
        c, dtype, E = self.c, values_BSE.dtype, values_BSE.shape[-1]
        if c.score == "dot" and c.Z != E:
            raise UserError(f"a state of Z={c.Z} has no dot product with a memory of {E}: take score=general")
        return values_BSE if c.score == "dot" else values_BSE @ self._matrix("key", dtype, E, c.F or c.Z)

    def _begin(self, values_BSE: Array, mask_BS: Array | None, segments_BT: Array | None, T: int) -> tuple[Array, ...]:
        """What a text begins with, told at each of its tokens: its h from the mean of its memory, all else zero."""
        dtype = values_BSE.dtype
        mask_BS = jnp.ones_like(values_BSE[..., 0], bool) if mask_BS is None else mask_BS
        seen_BTS = (mask_BS > 0)[:, None] if segments_BT is None else mask_BS[:, None] == segments_BT[:, :, None]
        share_BTS = seen_BTS / jnp.maximum(seen_BTS.sum(-1, keepdims=True), 1)
        mean_BTE = jnp.einsum("bts,bse->bte", share_BTS.astype(dtype), values_BSE)
        h_BTZ = jnp.tanh(mean_BTE @ self._matrix("begin", dtype, values_BSE.shape[-1], self.c.Z)).astype(jnp.float32)
        h_BTZ = jnp.broadcast_to(h_BTZ, (len(h_BTZ), T, self.c.Z))
        return (h_BTZ, *[jnp.zeros_like(h_BTZ)] * (self.c.arrays - 1))


def _whole(x: Array) -> Array:
    """All of its rows' positions on every device."""
    return sharding.constrain(x, "batch", *[None] * (x.ndim - 1))
