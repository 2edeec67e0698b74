"""Self-attention of low rank, for encoders of short memory: the module that owns q, k, v, o and the projections."""

import dataclasses
from typing import Any

import flax.linen as nn

from jaxlm.axes import Array
from jaxlm.config_check import check
from jaxlm.errors import UserError
from jaxlm.nn import init
from jaxlm.nn.context import Context
from jaxlm.nn.heads import merge, split
from jaxlm.nn.mixer import MixerConfig
from jaxlm.ops.linformer import linformer_attention
from jaxlm.sharding import weight


@dataclasses.dataclass(frozen=True)
class LinformerConfig(MixerConfig):
    """Linformer: H heads that see L mixtures of at most S positions (Wang et al. 2020, arXiv:2006.04768). Not
    causal."""

    H: int  # heads
    K: int  # head width
    S: int  # the longest text
    L: int  # mixtures of keys and of values

    causal = False

    def __post_init__(self):
        check(self, **dict.fromkeys(("H", "K", "S", "L"), ">= 1"))
        if self.L > self.S:
            raise UserError(
                f"linformer: needs H, K >= 1 and 1 <= L <= S, got H={self.H} K={self.K} L={self.L} S={self.S}"
            )

    def init_cache(self, B: int, length: int, dtype: Any) -> Any:
        raise UserError("linformer sees the whole text at once: it cannot decode token by token")

    def build(self, depth: int, name: str) -> nn.Module:
        return Linformer(self, depth, name=name)

    def score_flops(self, T: int) -> float:
        """Forward FLOPs per token of scores, weighted values and mixing, over those counted for the weights."""
        counted = 4 * self.L * self.S  # as of every matrix, but no token meets all of the projections
        return 8 * self.H * self.K * self.L - counted


class Linformer(nn.Module):
    """x_BTD, context -> y_BTD, (): nothing that decoding could go on from.

    Tokens of segment 0 are padding; rows may not be packed with several texts. Where positions are divided over
    devices, each mixes its own and the mixtures are added up.
    """

    c: LinformerConfig
    depth: int  # layers of the model, for the initial size of the output projection

    @nn.compact
    def __call__(self, x_BTD: Array, context: Context, past: Any = None) -> tuple[Array, tuple[()]]:
        if past is not None:
            raise UserError("linformer sees the whole text at once: it cannot decode token by token")
        c = self.c
        mixture = lambda name: weight(self, name, (c.L, c.S), (None, None), init.fan_in((1,)), (1,))
        mask_BS = None if context.segments_BT is None else context.segments_BT > 0
        q_BTHK, k_BTHK, v_BTHK = (split(self, name, x_BTD, c.H, c.K) for name in "qkv")
        o_BTHK = linformer_attention(q_BTHK, k_BTHK, v_BTHK, mixture("mix_keys"), mixture("mix_values"), mask_BS)
        return merge(self, "o", o_BTHK, x_BTD.shape[-1], self.depth), ()
